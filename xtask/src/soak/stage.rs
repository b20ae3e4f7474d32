//! The servers that everything runs on, and the mailboxes at one of them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use local::{
    emulator::{Bucket, Emulator, Queues},
    mail_server::{Dovecot, Ports},
    provider::Provider,
    services::{Postgres, Redis},
    template::Queue,
};
use serde_json::json;
use tokio::{sync::Mutex, task::block_in_place, time::sleep};

use super::{
    DATABASE, Run,
    caller::{Caller, PASSWORD},
    lock,
    mailbox::Mailbox,
    user::text,
};

/// So that they expire many times.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// When a queue shows a message again, which a worker has died of: in the template it is many minutes.
const AGAIN: Duration = Duration::from_secs(10);
const REDIRECT_URI: &str = "http://localhost:3000/connected";

pub(super) struct Servers {
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
    pub(super) queue: Emulator,
    pub(super) queues: Queues,
    pub(super) store: Emulator,
    pub(super) bucket: Bucket,
    pub(super) mail: Arc<Mutex<Dovecot>>,
    pub(super) ports: Ports,
    pub(super) provider: Provider,
}

impl Servers {
    pub(super) async fn start(mut queues: Vec<Queue>) -> Result<Self> {
        let (postgres, redis) = block_in_place(|| anyhow::Ok((Postgres::start()?, Redis::start()?)))?;
        postgres.create_database(DATABASE).await?;
        migrate::apply(&postgres.owner_url(DATABASE), &postgres.role_urls(DATABASE)).await?;
        let (queue, store) = block_in_place(|| anyhow::Ok((Emulator::start()?, Emulator::start()?)))?;
        queues.iter_mut().for_each(|queue| queue.visibility_timeout = AGAIN);
        let (queues, bucket) = (queue.make(&queues).await?, store.make_bucket().await?);
        let mail = block_in_place(Dovecot::start)?;
        let provider = block_in_place(|| Provider::start_with(&mail, TOKEN_LIFE))?;
        let ports = mail.ports();
        let mail = Arc::new(Mutex::new(mail));
        Ok(Self { postgres, redis, queue, queues, store, bucket, mail, ports, provider })
    }

    /// What the functions need to find them.
    pub(super) async fn env(&self) -> Vec<(String, String)> {
        let mail = self.mail.lock().await;
        let own = [
            ("DATABASE_URL", self.postgres.app_url(DATABASE)),
            ("REDIS_URL", self.redis.url()),
            ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128".to_owned()),
            ("MAIL_PORTS", "*".to_owned()),
            ("MAIL_ISP_DATABASE", "none".to_owned()),
            // Who is killed keeps his slot for minutes.
            ("MAIL_HOST_CONNECTIONS", "1000000".to_owned()),
            ("SEND_PER_HOUR", "0".to_owned()),
            ("USER_SEND_PER_HOUR", "0".to_owned()),
            ("SSL_CERT_FILE", mail.bundle_file().display().to_string()),
            ("OAUTH2_PROVIDERS", json!({ "local": self.provider.settings(&mail) }).to_string()),
            ("OAUTH2_REDIRECT_URIS", REDIRECT_URI.to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value)).into_iter();
        own.chain(self.queues.env().iter().chain(self.bucket.env()).cloned()).collect()
    }

    /// A mailbox with its user's account of it, by a password or by the provider's tokens.
    pub(super) async fn mailbox(&self, caller: Caller, name: &str, by_token: bool) -> Result<Mailbox> {
        let address = format!("{name}@mail.example");
        self.mail.lock().await.add_user(&address, PASSWORD)?;
        let answer = if by_token {
            let body = json!({ "provider": "local", "redirectUri": REDIRECT_URI, "emailAddress": address });
            let path = "/api/oauth2/authorizations";
            let started = caller.ask("start sign-in", "POST", path, Some(&body), &[201]).await?.body;
            let back = block_in_place(|| self.provider.consent(&text(&started, "authorizationUrl")))?;
            let (_, query) = back.split_once('?').context("the provider leads back without an answer")?;
            let query: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let body = json!({ "state": query.get("state"), "code": query.get("code"), "accountName": "Soak" });
            caller.ask("finish sign-in", "POST", "/api/oauth2/accounts", Some(&body), &[201]).await?
        } else {
            let body = json!({
                "accountName": "Soak", "emailAddress": address, "protocol": "imap", "hostname": "localhost",
                "port": self.ports.imaps, "username": address, "password": PASSWORD, "smtpHostname": "localhost",
                "smtpPort": self.ports.submissions, "syncInterval": 60,
            });
            caller.ask("create", "POST", "/api/accounts", Some(&body), &[201]).await?
        };
        ensure!(answer.status == 201, "no account for {address}: {}", answer.body);
        Ok(Mailbox::new(caller, address, text(&answer.body, "id")))
    }
}

/// Takes what was submitted to those who have a mailbox here, as long as the run lasts.
pub(super) async fn post(run: &Run, mail: &Mutex<Dovecot>, mailboxes: &[Arc<Mailbox>]) {
    let mut posted = 0;
    while !run.is_over() {
        sleep(Duration::from_millis(200)).await;
        for delivery in mail.lock().await.sink().deliveries_after(posted) {
            posted += 1;
            let message = String::from_utf8_lossy(&delivery.message).into_owned();
            for mailbox in mailboxes.iter().filter(|mailbox| delivery.recipients.contains(&mailbox.address)) {
                lock(&mailbox.arriving).push(message.clone());
            }
        }
    }
}

/// Three users of each of so many tenants.
pub(super) fn callers(count: usize, address: SocketAddr, key: &str, run: &Arc<Run>) -> Result<Vec<[Caller; 3]>> {
    let caller = |tenant| Caller::new(tenant, address, key, run.clone());
    let three = |_| {
        let tenant = uuid::Uuid::now_v7();
        Ok([caller(tenant)?, caller(tenant)?, caller(tenant)?])
    };
    (0..count).map(three).collect()
}

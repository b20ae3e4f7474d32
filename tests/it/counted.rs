//! What CloudWatch counts in the log: the filters of the template find their lines whatever the log's level is.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};
use shared::host_slots::HostSlots;
use shared::redis_link::RedisLink;
use shared::secrets::SecretText;
use uuid::Uuid;

use crate::model_smtp::{At, Fault, SmtpModel};
use crate::sign_in::body;
use crate::support::{Api, Service, User, lasting, merged, servers};
use crate::templates::metric_filters;

/// Of a mail host's errors, which the dashboard shows by both.
pub const SERVICES: [&str; 4] = ["imap", "pop3", "smtp", "oauth2"];

/// Whether a filter counts a line; of the language of patterns only what the template uses.
fn counts(filter: &Value, line: &Value) -> bool {
    let pattern = filter["FilterPattern"].as_str().unwrap();
    let terms = pattern.strip_prefix("{ ").and_then(|pattern| pattern.strip_suffix(" }")).unwrap();
    let holds = |term: &str| {
        let (path, wanted) = term.split_once(" = ").unwrap_or_else(|| panic!("{pattern}"));
        let found = at(line, path);
        if wanted == "*" { found.is_some() } else { found == Some(&wanted.trim_matches('"').into()) }
    };
    terms.split(" && ").all(|term| term.trim_matches(['(', ')']).split(" || ").any(holds))
}

/// What stands in a line at a path such as `$.result.due`.
fn at<'a>(line: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.strip_prefix('$').unwrap_or_else(|| panic!("{path}"));
    line.pointer(&path.replace('.', "/"))
}

/// The line that each of these filters counts, as soon as it is there, which has what is counted and by what.
async fn each_finds_its_line(api: &Api, names: &[&str]) {
    for name in names {
        let filter = metric_filters().find(|(id, _)| id == name).unwrap_or_else(|| panic!("no filter {name}")).1;
        let line = api.log_line(|line| counts(filter, line)).await;
        for counted in filter["MetricTransformations"].as_array().unwrap() {
            let value = counted["MetricValue"].as_str().unwrap();
            assert!(value == "1" || at(&line, value).is_some_and(Value::is_number), "{name}: {line}");
            for dimension in counted["Dimensions"].as_array().into_iter().flatten() {
                let found = at(&line, dimension["Value"].as_str().unwrap()).unwrap().as_str().unwrap();
                let codes = mail::Code::ALL.map(mail::Code::as_str);
                let bound = if dimension["Key"] == "Code" { &codes[..] } else { &SERVICES[..] };
                assert!(bound.contains(&found), "{name}: {line}");
            }
        }
    }
}

/// By whose work a line comes about. All filters stand here.
const OF_TRIES: [&str; 3] = ["AccountTries", "AccountsRefused", "AccountsUnreachable"];
const OF_THE_SCHEDULE: [&str; 8] = [
    "ScheduleLag",
    "OutboxLag",
    "NotRung",
    "AccountsConnected",
    "AccountsNew",
    "AccountsAuthenticationError",
    "AccountsConnectError",
    "AccountsCredentialsMissing",
];
const OF_SYNCHRONISING: [&str; 2] = ["SyncHostErrors", "SyncFailures"];
const OF_WHO_WAITS: [&str; 3] = ["SyncLag", "HostsBusy", "SendHostsBusy"];
const OF_SENDING: [&str; 4] = ["OutboxRejected", "OutboxUncertain", "SendHostErrors", "SendFailures"];
const OF_KEYS: [&str; 1] = ["KeySetFailures"];

#[tokio::test]
async fn what_is_counted_is_written_whatever_the_level() {
    let all = [&OF_TRIES[..], &OF_THE_SCHEDULE, &OF_SYNCHRONISING, &OF_WHO_WAITS, &OF_SENDING, &OF_KEYS].concat();
    assert_eq!(metric_filters().map(|(id, _)| id.as_str()).collect::<BTreeSet<_>>(), all.into_iter().collect());

    let env = [("LOG_LEVEL", "off"), ("MAIL_ALLOW_PLAINTEXT", "true")].map(|(name, value)| (name, value.to_owned()));
    let service = Service::start(Duration::from_secs(60), env.into()).await;
    let (api, user) = (&service.api, User::new());
    let create = async |settings: Value| {
        let answer = api.post("/api/accounts", settings).by(&user).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };

    let wrong = create(body(json!({"password": "wrong"})).await).await;
    let away = create(body(json!({"port": 1})).await).await;
    for account in [&wrong, &away] {
        let answer = api.post(&format!("/api/accounts/{account}/test"), json!({})).by(&user).send().await;
        assert_eq!((answer.status, &answer.body["success"]), (200, &json!(false)), "{answer:?}");
    }
    each_finds_its_line(api, &OF_TRIES).await;

    service.make_due(&[away.parse().unwrap()], 1).await;
    service.tick().await;
    each_finds_its_line(api, &OF_THE_SCHEDULE).await;
    each_finds_its_line(api, &OF_SYNCHRONISING).await;

    let hosts = ["imap", "smtp"].map(|name| format!("{name}.{}.example.com", Uuid::new_v4()));
    let busy = create(body(json!({"hostname": hosts[0], "smtpHostname": hosts[1]})).await).await;
    let link = RedisLink::new(&SecretText::new(servers().await.redis.url())).unwrap();
    link.warm_up().await;
    let slots = HostSlots::new(NonZeroU32::new(20).unwrap(), link.with_patience(Duration::from_secs(10)));
    for host in hosts.iter().flat_map(|host| std::iter::repeat_n(host, 20)) {
        assert!(slots.take(host, Duration::from_secs(120)).await.is_some(), "nobody else has one");
    }
    let message =
        |account: &str| json!({"accountId": account, "to": [{"address": "john@example.com"}], "subject": "Lunch?"});
    assert_eq!(api.post("/api/outbox", message(&busy)).by(&user).send().await.status, 202);
    let busy: Uuid = busy.parse().unwrap();
    let long_ago = "update email_accounts
                    set state = 'connected', created_at = 1, updated_at = 1, state_changed_at = 1, last_sync_at = 1
                    where id = $1";
    // Where a busy machine has Redis take longer than a worker waits, it asks the host, which nobody is.
    let is_told = |host: &String| api.log().contains(&format!(r#""host":"{host}""#));
    let sql = "update email_outbox set due_at = 1, ring_at = 1 where account_id = $1 and status = 'queued'";
    let turned_away = async {
        while !hosts.iter().all(is_told) {
            service.owner.execute(long_ago, &[&busy]).await.unwrap();
            service.make_due(&[busy], 60).await;
            service.owner.execute(sql, &[&busy]).await.unwrap();
            service.tick().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), turned_away).await.expect("both are turned away in the end");
    each_finds_its_line(api, &OF_WHO_WAITS).await;

    let server = SmtpModel::start(&["PIPELINING", "SIZE 26214400", "8BITMIME", "ENHANCEDSTATUSCODES"]).await;
    let plain = json!({
        "protocol": "pop3", "hostname": "127.0.0.1", "port": 1, "encryption": "none",
        "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
    });
    let sends = create(merged(body(json!({})).await, plain)).await;
    let faults = [
        (At::Mail, Fault::Say("552 5.3.4 Too large")),
        (At::Dot, Fault::Cut),
        (At::Greeting, Fault::Say("421 4.3.2 Too many connections")),
    ];
    for (fault, filter) in faults.into_iter().zip(OF_SENDING) {
        server.fail([fault]);
        assert_eq!(api.post("/api/outbox", message(&sends)).by(&user).send().await.status, 202);
        // The queue has 250 ms there, which a busy machine may not grant. Who is rung twice finds nothing to do.
        let bell = json!({"tenantId": user.tenant, "userId": user.user, "accountId": sends}).to_string();
        service.queues.send("OutboxQueue", &[bell]).await.unwrap();
        each_finds_its_line(api, &[filter]).await;
    }
    each_finds_its_line(api, &OF_SENDING).await;
    // What a worker leaves that has died after the last dot is counted by the next one. The last of these gives its message back
    // after it has said why.
    let sql = "update email_outbox set status = 'sending', dot_at = 1, doubtful = '{0}', due_at = 1, leased_until = 1
               where account_id = $1 and status = 'queued'";
    let account: Uuid = sends.parse().unwrap();
    let died = async {
        while service.owner.execute(sql, &[&account]).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), died).await.expect("it is queued in the end");
    let bell = json!({"tenantId": user.tenant, "userId": user.user, "accountId": sends}).to_string();
    service.queues.send("OutboxQueue", &[bell]).await.unwrap();
    let uncertain = metric_filters().find(|(id, _)| *id == "OutboxUncertain").unwrap().1;
    api.log_lines(2, |line| counts(uncertain, line)).await;
    // And nothing else is: the level holds.
    let lines = api.log_lines(9, |line| line["message"].is_string()).await;
    let messages: BTreeSet<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    let counted = ["account_tried", "host_busy", "message_tried", "send_failed", "sync_failed", "sync_late", "tick"];
    assert_eq!(messages, counted.into());
}

#[tokio::test]
async fn that_keys_are_not_fetched_is_counted_whatever_the_level() {
    let mut env: BTreeMap<_, _> = servers().await.env();
    env.extend(
        [
            ("LOG_LEVEL", "off"),
            ("JWT_ALGORITHM", "ES256"),
            ("JWT_JWKS_URL", "https://127.0.0.1:1/keys"),
            ("JWT_JWKS_SECRET_ARN", "none"),
        ]
        .map(|(name, value)| (name, value.to_owned())),
    );
    let api = std::sync::Arc::new(Api::start(env).await);
    let invoked = api.clone();
    assert!(lasting(async move { invoked.gateway.invoke("refresh-keys", json!({})).await.unwrap() }).await.is_err());
    each_finds_its_line(&api, &OF_KEYS).await;
}

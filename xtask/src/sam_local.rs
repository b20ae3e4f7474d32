//! `cargo sam-local`: the built functions behind `sam local start-api`, with PostgreSQL and Redis in containers, and queues
//! and a bucket in an emulator.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hyper::{Request, Response, Uri};
use local::{
    docker::{Engine, Images, Network},
    emulator::{Bucket, Emulator, Queues},
    services::{Service, free_port, last_lines, secret},
    template, workspace_root,
};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::{
    demo::{TENANT, USER, send},
    dev::{DATABASE, environment, free_address},
    functions::SealingKeys,
    sam,
    settings::Settings,
    skip,
    tokens::{Signer, TOKEN_LIFE},
};

/// For both images, the official one and the stand-in. `/tmp` is in memory.
const START_POSTGRES: &str = r#"set -e
printf %s "$PASSWORD" >/tmp/password
initdb --pgdata=/tmp/data --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync
echo 'create database email_service' | postgres --single -D /tmp/data postgres
echo 'host all all all scram-sha-256' >>/tmp/data/pg_hba.conf
exec postgres -D /tmp/data -c 'listen_addresses=*' -c unix_socket_directories= -c fsync=off"#;

/// The queues and the bucket.
struct Cloud {
    queues: Queues,
    bucket: Bucket,
    emulator: Emulator,
}

impl Cloud {
    /// At an address of this machine that containers reach.
    async fn start(network: &Network<'_>) -> Result<Self> {
        let emulator = Emulator::start_at(network.gateway()?)?;
        let queues = emulator.make(&template::queues(&workspace_root().join("template.yaml"))?).await?;
        let bucket = emulator.make_bucket().await?;
        Ok(Self { queues, bucket, emulator })
    }

    /// One address for all of AWS, since the template declares no other; the SAM CLI has a region and keys of its own.
    fn env(&self) -> impl Iterator<Item = (String, String)> {
        let address = ("AWS_ENDPOINT_URL".to_owned(), self.emulator.url().to_owned());
        self.queues.env().iter().chain(self.bucket.env()).cloned().chain([address])
    }
}

/// The command line.
#[derive(Default)]
pub(crate) struct Options {
    /// Serve until Ctrl-C in place of the checks.
    serve: bool,
    /// No engine is no failure.
    optional: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--serve" => options.serve = true,
                "--if-possible" => options.optional = true,
                other => bail!("unknown option {other}"),
            }
        }
        Ok(options)
    }
}

pub(crate) async fn run(options: &Options, settings: &Settings) -> Result<()> {
    let address = match options.serve {
        true => free_address(settings)?,
        false => SocketAddr::from(([127, 0, 0, 1], free_port()?)),
    };
    let engine = match Engine::start() {
        Err(error) if options.optional => return skip("sam local start-api", &format!("{error:#}")),
        engine => engine?,
    };
    let template = sam::build()?.join("template.yaml");
    let images = Images::get(&engine)?;
    let network = Network::create(&engine)?;

    eprintln!("Starting PostgreSQL and Redis in containers ...");
    let ready = "eady to accept connections";
    let password = secret();
    let variable = format!("PASSWORD={password}");
    let arguments = ["--publish=127.0.0.1::5432", "--tmpfs=/tmp", "--user=postgres", "--env", &variable];
    let command = ["--entrypoint=sh", images.postgres(), "-c", START_POSTGRES];
    let _postgres = network.run("postgres", "QUIT", ready, &[&arguments[..], &command].concat())?;
    let command = ["--entrypoint=redis-server", images.redis(), "--save", "", "--protected-mode", "no"];
    let _redis = network.run("redis", "TERM", ready, &command)?;

    let address_here = network.published("postgres", 5432)?;
    let owner = format!("postgres://postgres:{password}@{address_here}/{DATABASE}");
    let role_urls = ["app", "mail", "scheduler", "reader"]
        .map(|role| format!("postgres://email_service_{role}:{}@postgres:5432/{DATABASE}", secret()));
    migrate::apply(&owner, &role_urls).await.context("migrations failed")?;
    let [app, mail, scheduler, reader] = role_urls;

    // An engine on another machine, as a Mac's is on a virtual one, has no address of this one in its networks.
    let cloud = match cfg!(target_os = "linux") {
        true => Some(Cloud::start(&network).await?),
        false => None,
    };

    let key = secret();
    let signer = Signer::new(settings, &key)?;
    let mut variables: BTreeMap<_, _> = environment(settings, &app, "redis://redis:6379", &key).into_iter().collect();
    variables.extend(signer.env());
    variables.extend(cloud.iter().flat_map(Cloud::env));
    // The template names a secret that no AWS has. Only what it declares can be replaced.
    for owner in ["", "MAIL_", "SCHEDULER_", "READER_", "NETWORK_", "PROVIDERS_"] {
        variables.insert(format!("{owner}SECRET_ARN"), String::new());
    }
    let keys = SealingKeys::new()?;
    variables.insert("SEALING_PUBLIC_KEY".to_owned(), keys.public.clone());
    let mut environment = json!({ "Parameters": variables });
    for function in template::routes(&workspace_root().join("template.yaml"))? {
        let own = match &function {
            function if function.opens_secrets => keys.mail_env(mail.clone()),
            function if function.asks_who_is_due => vec![("DATABASE_URL".to_owned(), scheduler.clone())],
            function if function.only_reads => vec![("DATABASE_URL".to_owned(), reader.clone())],
            _ => continue,
        };
        let own: BTreeMap<_, _> = variables.clone().into_iter().chain(own).collect();
        environment[&function.logical_id] = json!(own);
    }
    eprintln!("Starting sam local start-api ...");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let sam = Service::run("sam local start-api", "TERM", "Press CTRL+C to quit", |directory| {
        let file = directory.join("env.json");
        fs::write(&file, environment.to_string())?;
        let (template, file) = (template.display().to_string(), file.display().to_string());
        let mut arguments = vec!["local", "start-api", "--template-file", &template, "--env-vars", &file];
        arguments.extend(["--docker-network", &network.name, "--host", &host, "--port", &port]);
        // samconfig.toml says so, too, but is looked for beside the template.
        arguments.extend(["--warm-containers", "LAZY"]);
        arguments.extend(images.sam_options());
        let command = sam::sam(&arguments)?;
        let mut words = vec!["env".to_owned(), "SAM_CLI_TELEMETRY=0".to_owned()];
        words.extend(engine.environment());
        // `env` would take the path of a pinned version, which has a `=` in it, for a variable.
        words.extend(["sh", "-c", r#"exec "$@""#, "sh"].map(str::to_owned));
        let all = std::iter::once(command.get_program()).chain(command.get_args());
        words.extend(all.map(|word| word.to_string_lossy().into_owned()));
        Ok(words)
    })?;

    if options.serve {
        eprintln!(
            "\nReady at http://localhost:{port}, until Ctrl-C. The first call of a function starts its container."
        );
        eprintln!("Who you are: -H 'X-Tenant-ID: {TENANT}' -H 'X-User-ID: {USER}'");
        eprintln!("Nobody works off the queues here: what is asked for waits.\n");
        return follow(&sam).await;
    }
    let token = signer.token(TOKEN_LIFE)?.context("cannot sign a token")?;
    let checked = Api { address }.check(&token, cloud.as_ref()).await;
    if checked.is_err() {
        let log = fs::read_to_string(sam.log()).unwrap_or_default();
        eprintln!("The log of sam local start-api ends:\n{}", last_lines(&log, 40));
    }
    checked
}

/// Shows a server's output until we are told to end.
async fn follow(service: &Service) -> Result<()> {
    let mut log = File::open(service.log())?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    while service.pid().is_some() {
        io::copy(&mut log, &mut io::stderr())?;
        io::stderr().flush()?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
    bail!("sam local start-api has ended")
}

/// The API that is under test.
struct Api {
    address: SocketAddr,
}

/// The header fields that say who calls.
type Caller<'a> = &'a [(&'a str, &'a str)];

impl Api {
    /// The contract's main paths; prints a line for each.
    async fn check(&self, token: &str, cloud: Option<&Cloud>) -> Result<()> {
        let bearer = format!("Bearer {token}");
        let me: Caller<'_> = &[("X-Tenant-ID", TENANT), ("X-User-ID", USER)];
        let with_token: Caller<'_> = &[("Authorization", &bearer)];
        let colleague = Uuid::now_v7().to_string();
        let other: Caller<'_> = &[("X-Tenant-ID", TENANT), ("X-User-ID", &colleague)];
        let account = json!({
            "accountName": "Work", "emailAddress": "jane@example.com", "protocol": "imap", "hostname": "imap.example.com",
            "port": 993, "username": "jane", "password": "correct horse battery staple",
            "smtpHostname": "smtp.example.com", "smtpPort": 465,
        })
        .to_string();
        let accounts = "/api/accounts";

        self.expect("health", 200, "GET", "/health", &[], "").await?;
        self.expect("health with databases", 200, "GET", "/health/ready", &[], "").await?;
        let answer = self.expect("no identity", 401, "GET", accounts, &[], "").await?;
        ensure!(answer.headers().contains_key("www-authenticate"), "it has no WWW-Authenticate");
        let forged = [("Authorization", "Bearer e30.e30.")];
        self.expect("a forged token", 401, "GET", accounts, &forged, "").await?;

        let answer = self.expect("create", 201, "POST", accounts, me, &account).await?;
        let created = json(&answer)?;
        let id = created["id"].as_str().context("the account has no id")?;
        let path = format!("{accounts}/{id}");
        ensure!(answer.headers().get("location").is_some_and(|location| location == path.as_str()), "a wrong Location");
        ensure!(!answer.body().contains("correct horse"), "the answer has the password");
        self.expect("the same address again", 409, "POST", accounts, me, &account).await?;
        let answer = self.expect("faulty input", 400, "POST", accounts, me, r#"{"port": "993"}"#).await?;
        ensure!(
            json(&answer)?["details"].as_array().is_some_and(|faults| faults.len() > 1),
            "not every fault is named"
        );

        let answer =
            json(&self.expect("list, with a token", 200, "GET", "/api/accounts?limit=1", with_token, "").await?)?;
        ensure!(answer["accounts"] == json!([created]) && answer["pagination"]["limit"] == 1, "a wrong list: {answer}");
        let answer = json(&self.expect("get", 200, "GET", &path, me, "").await?)?;
        ensure!(answer == created, "another account: {answer}");
        let answer = json(&self.expect("update", 200, "PUT", &path, me, r#"{"syncInterval": 600}"#).await?)?;
        ensure!(answer["syncInterval"] == 600, "nothing changed: {answer}");
        let answer = self.expect("another user's account", 403, "GET", &path, other, "").await?;
        let limit = answer.headers().get("x-ratelimit-limit").context("it has no X-RateLimit-Limit")?;
        let limit: u32 = limit.to_str()?.parse()?;
        match cloud {
            Some(cloud) => self.check_cloud(cloud, me, id).await?,
            None => skip("queues and bucket", "containers reach this machine on Linux only")?,
        }
        self.expect("delete", 200, "DELETE", &path, me, "").await?;
        self.expect("delete once more", 404, "DELETE", &path, me, "").await?;
        self.expect("an unknown path", 404, "GET", "/unknown", &[], "").await?;
        self.expect("a wrong method", 405, "PATCH", accounts, me, "").await?;

        let preflight = [("Origin", "http://localhost:3000"), ("Access-Control-Request-Method", "POST")];
        let answer = self.expect("preflight", 204, "OPTIONS", accounts, &preflight, "").await?;
        let origin = answer.headers().get("access-control-allow-origin");
        ensure!(origin.is_some_and(|origin| origin == "http://localhost:3000"), "the origin is not allowed");

        // One of them is the 403 above.
        for _ in 1..limit {
            let answer = self.call("GET", accounts, other, "").await?;
            ensure!(answer.status() == 200, "refused too early: {answer:?}");
        }
        let answer = self.expect("one request over the limit", 429, "GET", accounts, other, "").await?;
        ensure!(answer.headers().contains_key("retry-after"), "it has no Retry-After");
        Ok(())
    }

    /// A file is put into the bucket, and a message that it goes along with rings for who sends.
    async fn check_cloud(&self, cloud: &Cloud, me: Caller<'_>, account: &str) -> Result<()> {
        // It asks with little patience, on a machine that starts containers meanwhile.
        let mut ready = Value::Null;
        for _ in 0..10 {
            ready = json(&self.expect("health with queues and bucket", 200, "GET", "/health/ready", &[], "").await?)?;
            if ready["status"] == "healthy" {
                break;
            }
        }
        ensure!(ready["status"] == "healthy", "something is away: {ready}");

        let file = "what is sent along";
        let announced = json!({ "filename": "a.txt", "contentType": "text/plain", "size": file.len() }).to_string();
        let upload = json(&self.expect("announce a file", 201, "POST", "/api/uploads", me, &announced).await?)?;
        let message = json!({
            "accountId": account, "to": [{ "address": "john@example.com" }], "subject": "Lunch?",
            "attachments": [{ "uploadId": upload["id"] }],
        })
        .to_string();
        self.expect("send a file that is not there", 409, "POST", "/api/outbox", me, &message).await?;

        let url: Uri = upload["url"].as_str().context("the upload has no URL")?.parse()?;
        let authority = url.authority().context("the URL names no host")?.as_str();
        let mut put =
            Request::put(url.path_and_query().context("the URL has no path")?.as_str()).header("Host", authority);
        for (name, value) in upload["headers"].as_object().context("the upload has no headers")? {
            put = put.header(name, value.as_str().unwrap_or_default());
        }
        let answer = send(authority.parse()?, put.body(file.to_owned())?).await?;
        ensure!(answer.status() == 200, "the bucket does not take the file: {answer:?}");
        let keys = cloud.bucket.keys().await?;
        let [key] = &keys[..] else { bail!("not one file in the bucket: {keys:?}") };
        ensure!(cloud.bucket.get(key).await? == file.as_bytes(), "another file is in the bucket");
        println!("ok  200  put the file");

        // Ringing is best effort, and the schedule's turn does not come here.
        for _ in 0..10 {
            self.expect("send it", 202, "POST", "/api/outbox", me, &message).await?;
            if cloud.queues.count("OutboxQueue").await? > 0 {
                return Ok(());
            }
        }
        bail!("nobody was rung for, ten times")
    }

    async fn expect(
        &self,
        what: &str,
        status: u16,
        method: &str,
        path: &str,
        caller: Caller<'_>,
        body: &str,
    ) -> Result<Response<String>> {
        let answer = self.call(method, path, caller, body).await?;
        ensure!(answer.status() == status, "{what}: {method} {path} wanted {status} and got {answer:?}");
        println!("ok  {status}  {what}");
        Ok(answer)
    }

    async fn call(&self, method: &str, path: &str, caller: Caller<'_>, body: &str) -> Result<Response<String>> {
        let mut request = Request::builder().method(method).uri(path).header("Host", self.address.to_string());
        for (name, value) in caller {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("Content-Type", "application/json");
        }
        let answer = send(self.address, request.body(body.to_owned())?).await;
        answer.with_context(|| format!("no answer to {method} {path}"))
    }
}

fn json(answer: &Response<String>) -> Result<Value> {
    serde_json::from_str(answer.body()).with_context(|| format!("no JSON: {}", answer.body()))
}

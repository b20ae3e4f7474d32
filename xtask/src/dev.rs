//! `cargo dev`: everything that the service needs, on this machine.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use local::{
    build::build_functions,
    emulator::Emulator,
    event_sources::EventSources,
    gateway::{self, Gateway},
    install::{Tool, ensure_installed},
    mail_server::{Dovecot, Ports},
    name_server::NameServer,
    page::{self, Page},
    services::{Postgres, Redis, secret},
    template, workspace_root,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    demo::{self, DEMO_ADDRESS, DEMO_PASSWORD, GUEST_ADDRESS, TENANT, USER},
    env_file::EnvFile,
    functions::SealingKeys,
    settings::Settings,
    summary,
    tokens::{PAGE_TOKEN_LIFE, Signer, TOKEN_LIFE},
    web::build_page,
};

pub(crate) const DATABASE: &str = "email_service";
/// Handed to the functions when set; they have defaults for the rest.
const PASSED_ON: [&str; 29] = [
    "ACCOUNTS_PER_USER",
    "ALLOW_HEADER_AUTH",
    "CORS_ORIGINS",
    "JWT_ALGORITHM",
    "JWT_AUDIENCE",
    "JWT_IDS",
    "JWT_ISSUER",
    "JWT_JWKS",
    "JWT_JWKS_SECRET_ARN",
    "JWT_JWKS_URL",
    "JWT_PUBLIC_KEY",
    "JWT_ROLE_CLAIM",
    "JWT_SECRET_KEY_PREVIOUS",
    "JWT_TENANT_CLAIM",
    "JWT_USER_CLAIM",
    "LOG_LEVEL",
    "MAIL_ALLOW_PLAINTEXT",
    "MAIL_HOST_CONNECTIONS",
    "MAIL_ISP_DATABASE",
    "MAIL_NAME_SERVERS",
    "MAIL_PORTS",
    "MAIL_PRIVATE_NETWORKS",
    "OAUTH2_PROVIDERS",
    "OAUTH2_REDIRECT_URIS",
    "RATE_LIMIT_PER_MINUTE",
    "RETENTION_DAYS",
    "SEND_PER_HOUR",
    "SSL_CERT_FILE",
    "USER_SEND_PER_HOUR",
];

/// The command line.
pub(crate) struct Options {
    release: bool,
    demo: bool,
    mail: bool,
    page: bool,
    concurrency: usize,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { release: false, demo: false, mail: true, page: true, concurrency: 2 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--release" => options.release = true,
                "--demo" => options.demo = true,
                "--no-mail" => options.mail = false,
                "--no-page" => options.page = false,
                "--concurrency" => {
                    let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
                    options.concurrency = value.context("--concurrency needs a number from 1")?;
                }
                other => bail!("unknown option {other}"),
            }
        }
        Ok(options)
    }
}

/// Serves until Ctrl-C, SIGTERM or the end of the terminal.
pub(crate) async fn run(options: Options, settings: &Settings) -> Result<()> {
    let believes_headers = settings.get("ALLOW_HEADER_AUTH").is_none_or(|value| value.eq_ignore_ascii_case("true"));
    ensure!(believes_headers || !options.demo, "--demo makes its accounts by headers: ALLOW_HEADER_AUTH=true");
    let address = free_address(settings)?;
    // Until the functions are built, signals end us as usual: the servers go by themselves when we are gone.
    let mut redis = None;
    let redis_url = match settings.get("REDIS_URL") {
        Some(url) => url,
        None => {
            ensure_installed(&[Tool::Redis])?;
            eprintln!("Starting Redis ...");
            redis.insert(Redis::start()?).url()
        }
    };
    let database = Database::prepare(settings)?;
    let mail = if options.mail { start_mail() } else { None };
    let names = match &mail {
        Some(mail) if settings.get("MAIL_NAME_SERVERS").is_none() => Some(say_where(mail).await?),
        _ => None,
    };

    let template = workspace_root().join("template.yaml");
    let mut functions = template::routes(&template)?;
    // Here nothing is without a way to the issuer, so nobody has to fetch its keys for others.
    functions.retain(|function| function.has_events() && function.binary != "refresh-keys");
    let queues = template::queues(&template)?;
    eprintln!("Starting the queues, and building {} functions ...", functions.len());
    // Beside the build, which takes longer.
    let emulator = thread::spawn(Emulator::start);
    let page = options.page.then(|| thread::spawn(build_page));
    let binaries = build_functions(options.release, functions.iter().map(|function| &function.binary))?;
    let emulator = emulator.join().ok().context("the start of the queues panicked")??;
    let page = page.and_then(|page| match page.join().ok().context("the build panicked").and_then(|built| built) {
        Ok(folder) => Some(folder),
        Err(error) => {
            eprintln!("There is no page: {error:#}\nAll else works. `cargo dev --no-page` does not try.");
            None
        }
    });

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let serve = async {
        database.migrate().await?;
        let key = settings.get("JWT_SECRET_KEY").unwrap_or_else(secret);
        let signer = Arc::new(Signer::new(settings, &key)?);
        let queues = emulator.make(&queues).await?;
        let mut gateway_options = gateway::Options::new(functions.clone(), binaries);
        gateway_options.listen = address;
        gateway_options.concurrency = options.concurrency;
        // A reader of our output may stop reading, as `head` does; that is no reason to stop serving.
        gateway_options.log = Arc::new(|_, line| drop(writeln!(std::io::stdout(), "{line}")));
        gateway_options.env = environment(settings, &database.role_urls[0], &redis_url, &key);
        gateway_options.env.extend(signer.env());
        let bucket = emulator.make_bucket().await?;
        // Both name the emulator's region and keys.
        let emulated: BTreeMap<_, _> = queues.env().iter().chain(bucket.env()).cloned().collect();
        gateway_options.env.extend(emulated.clone());
        let keys = SealingKeys::load(settings)?;
        let sealing_key = keys.public.clone();
        keys.hand_to(&mut gateway_options, database.role_urls.clone());
        let client_secrets = settings.get("OAUTH2_CLIENT_SECRETS");
        gateway_options.providers_env.extend(client_secrets.map(|json| ("OAUTH2_CLIENT_SECRETS".to_owned(), json)));
        let mut mail_env = mail.as_ref().map(|mail| mail_environment(settings, mail)).unwrap_or_default();
        mail_env.extend(names.as_ref().map(|names| ("MAIL_NAME_SERVERS".to_owned(), names.address().to_string())));
        // What the developer set stands there already, but for the bundle, which has theirs in it.
        gateway_options.env.retain(|(name, _)| mail_env.iter().all(|(new, _)| new != name));
        gateway_options.env.extend(mail_env.iter().cloned());
        let url = format!("http://localhost:{}", address.port());
        let page = match &page {
            Some(folder) => Some(serve_page(folder, &url, emulator.url(), signer.clone()).await?),
            None => None,
        };
        if let Some(page) = &page {
            emulator.admit(&page.origin())?;
            let origins = settings.get("CORS_ORIGINS").unwrap_or_else(|| format!("http://localhost:{PAGE_PORT}"));
            let is_known = origins.split(',').any(|origin| origin.trim() == page.origin());
            let origins = if is_known { origins } else { format!("{origins},{}", page.origin()) };
            gateway_options.env.retain(|(name, _)| name != "CORS_ORIGINS");
            gateway_options.env.push(("CORS_ORIGINS".to_owned(), origins));
        }
        let mut gateway = Gateway::start(gateway_options).await.context(PORT_HINT)?;
        // Browsers take localhost for ::1 first. Machines without IPv6 do not.
        let _ = gateway.listen((Ipv6Addr::LOCALHOST, address.port()).into()).await;
        gateway.prewarm();
        let mut event_sources = EventSources::start(&gateway, &functions, Some(&queues))?;
        event_sources.run_schedules();
        if options.demo {
            if let Some(mail) = &mail {
                demo::create_mailbox(address, mail).await?;
            }
            demo::create_accounts(address).await?;
            // Not a minute later, as the schedule's first turn: its failure is in its own log.
            let _ = event_sources.tick("schedule-work").await?;
        }
        let owner_url = database.owner_url.as_deref();
        let [app_url, mail_url, scheduler_url, reader_url] = &database.role_urls;
        let variables: Vec<(String, String)> = [
            ("API_URL", Some(url.as_str())),
            ("PAGE_URL", page.as_ref().map(Page::origin).as_deref()),
            ("DATABASE_URL", Some(app_url)),
            ("MAIL_DATABASE_URL", Some(mail_url)),
            ("SCHEDULER_DATABASE_URL", Some(scheduler_url)),
            ("READER_DATABASE_URL", Some(reader_url)),
            ("OWNER_DATABASE_URL", owner_url),
            ("REDIS_URL", Some(&redis_url)),
            ("JWT_SECRET_KEY", Some(&key)),
            // The keys that open stay with the functions.
            ("SEALING_PUBLIC_KEY", Some(&sealing_key)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .chain(emulated)
        .chain(mail_env)
        .collect();
        let file = EnvFile::write(&workspace_root().join("target"), address.port(), &variables)?;
        eprintln!("{}", welcome(&url, believes_headers, signer.token(TOKEN_LIFE)?.as_deref(), &file));
        eprintln!(
            "Jobs run: each minute those accounts are synchronised that are due, by queues in an emulator. Messages that were read are in a bucket of it.\n"
        );
        if let Some(mail) = &mail {
            eprintln!("{}", welcome_to_mail(mail, options.demo));
        }
        if let Some(page) = &page {
            eprintln!("{PAGE_SIGN}{}\n", page.origin());
        }
        match &mail {
            Some(mail) => mail.post().await,
            None => std::future::pending().await,
        }
        Ok(())
    };
    tokio::select! {
        result = serve => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

/// What stands before the page's address.
pub(crate) const PAGE_SIGN: &str = "Mail in the browser: ";
/// Where the page is, if it can be.
const PAGE_PORT: u16 = 3000;

/// Serves the page, at another port where its own is taken.
async fn serve_page(folder: &Path, api: &str, store: &str, signer: Arc<Signer>) -> Result<Page> {
    let api_url = api.to_owned();
    let config: page::Config = Arc::new(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let expires_at = u64::try_from((now + PAGE_TOKEN_LIFE).as_millis())?;
        Ok(json!({"apiUrl": api_url, "token": signer.token(PAGE_TOKEN_LIFE)?, "expiresAt": expires_at}))
    });
    let connects_to = [api, store];
    match Page::start(folder, PAGE_PORT, &connects_to, config.clone()).await {
        Ok(page) => Ok(page),
        Err(error) => {
            eprintln!("The page is at another port: {error:#}.");
            Page::start(folder, 0, &connects_to, config).await
        }
    }
}

/// A name server for the functions, which says where the mailboxes of this machine are.
async fn say_where(mail: &Dovecot) -> Result<NameServer> {
    let domain = DEMO_ADDRESS.rsplit('@').next().unwrap_or_default();
    let Ports { imaps, pop3s, submissions, .. } = mail.ports();
    NameServer::start(domain, &[("_imaps._tcp", imaps), ("_pop3s._tcp", pop3s), ("_submissions._tcp", submissions)])
        .await
}

const PORT_HINT: &str = "the port is taken; choose another one, as in `PORT=5001 cargo dev`";

/// Looks before the long build whether the port can be had.
pub(crate) fn free_address(settings: &Settings) -> Result<SocketAddr> {
    let port = settings.get("PORT").unwrap_or_else(|| "5000".to_owned());
    let port = port.parse().ok().filter(|port| *port > 0).context("PORT must be a number from 1 to 65535")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}")).context(PORT_HINT)?;
    Ok(address)
}

/// The database: our own, or one that the developer points to.
struct Database {
    server: Option<Postgres>,
    /// As of [`Postgres::role_urls`].
    role_urls: [String; 4],
    owner_url: Option<String>,
}

impl Database {
    fn prepare(settings: &Settings) -> Result<Self> {
        if let Some(app_url) = settings.get("DATABASE_URL") {
            let also = |name: &str, role: &str| {
                let hint = format!("DATABASE_URL is set: set {name}, too, to the URL that logs in as {role}");
                settings.get(name).context(hint)
            };
            let mail_url = also("MAIL_DATABASE_URL", "email_service_mail")?;
            let scheduler_url = also("SCHEDULER_DATABASE_URL", "email_service_scheduler")?;
            let reader_url = also("READER_DATABASE_URL", "email_service_reader")?;
            let owner_url = settings.get("OWNER_DATABASE_URL");
            return Ok(Self { server: None, role_urls: [app_url, mail_url, scheduler_url, reader_url], owner_url });
        }
        ensure_installed(&[Tool::PostgreSql])?;
        eprintln!("Starting PostgreSQL ...");
        let server = Postgres::start()?;
        let (role_urls, owner_url) = (server.role_urls(DATABASE), Some(server.owner_url(DATABASE)));
        Ok(Self { server: Some(server), role_urls, owner_url })
    }

    async fn migrate(&self) -> Result<()> {
        if let Some(server) = &self.server {
            server.create_database(DATABASE).await?;
        }
        match &self.owner_url {
            Some(owner_url) => {
                let applied = migrate::apply(owner_url, &self.role_urls).await.context("migrations failed")?;
                eprintln!("{}", summary(&applied));
            }
            None => eprintln!("DATABASE_URL is set and OWNER_DATABASE_URL is not: no migrations are applied."),
        }
        Ok(())
    }
}

/// The mail server, or the reason why there is none: the service is of use without.
fn start_mail() -> Option<Dovecot> {
    eprintln!("Starting the mail server ...");
    let started = Dovecot::start();
    if let Err(error) = &started {
        eprintln!("There is no mail server: {error:#}\nAll else works. `cargo dev --no-mail` does not try.");
    }
    started.ok()
}

/// What the functions need to reach the mail server: by default they connect to public addresses and the usual ports,
/// and trust the system's authorities, alone.
fn mail_environment(settings: &Settings, mail: &Dovecot) -> Vec<(String, String)> {
    let or = |name: &str, default: &str| (name.to_owned(), settings.get(name).unwrap_or_else(|| default.to_owned()));
    vec![
        or("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128"),
        or("MAIL_PORTS", "*"),
        ("SSL_CERT_FILE".to_owned(), mail.bundle_file().display().to_string()),
    ]
}

pub(crate) fn environment(settings: &Settings, database: &str, redis: &str, key: &str) -> Vec<(String, String)> {
    let passed_on = PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), settings.get(name)?)));
    // Of one name, the last value counts: the developer's.
    let own =
        [("ALLOW_HEADER_AUTH", "true"), ("DATABASE_URL", database), ("JWT_SECRET_KEY", key), ("REDIS_URL", redis)];
    own.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().chain(passed_on).collect()
}

fn welcome_to_mail(mail: &Dovecot, demo: bool) -> String {
    let Ports { imap, imaps, pop3, pop3s, submission, submissions } = mail.ports();
    let mailbox = match demo {
        true => format!(
            "The mailbox {DEMO_ADDRESS} has the password `{DEMO_PASSWORD}`, and an account here; {GUEST_ADDRESS} has the same\n\
             password, and none yet: the page adds it by its address."
        ),
        false => "It has no mailbox: --demo makes one.".to_owned(),
    };
    format!(
        "\
A mail server is at localhost: IMAP {imap} (STARTTLS) and {imaps} (TLS), POP3 {pop3} and {pop3s}, submission {submission}
and {submissions}. What is submitted is not sent on. {mailbox}
Its certificates' authority is in {}.
",
        mail.ca_file().display(),
    )
}

fn welcome(url: &str, believes_headers: bool, token: Option<&str>, file: &EnvFile) -> String {
    let identity = match believes_headers {
        true => format!("-H 'X-Tenant-ID: {TENANT}' -H 'X-User-ID: {USER}'"),
        false => "-H \"Authorization: Bearer $TOKEN\"".to_owned(),
    };
    let account = json!({
        "accountName": "Work",
        "emailAddress": "me@example.com",
        "protocol": "imap",
        "hostname": "imap.example.com",
        "port": 993,
        "username": "me@example.com",
        "password": "secret",
    });
    let token = token.map_or_else(
        || "  (no development token: the issuer whose keys you named makes them)".to_owned(),
        |token| format!("  TOKEN={token}\n  curl -H \"Authorization: Bearer $TOKEN\" {url}/api/accounts"),
    );
    format!(
        "
Ready at {url}, until Ctrl-C. Addresses and secrets are in {}. To paste:

  curl {url}/health
  curl {identity} {url}/api/accounts
  curl {identity} -H 'Content-Type: application/json' -d '{account}' {url}/api/accounts

With a token, valid for {} hours:

{token}
",
        file.path().display(),
        TOKEN_LIFE.as_secs() / 3600,
    )
}

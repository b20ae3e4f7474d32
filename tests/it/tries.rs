//! Trying to sign in where something is in the way: the guard, hostile servers, and faults in the middle of a try.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::gateway::PayloadVersion;
use mail::dns::testing::{NameServer, Zone};
use mail::testing::{Authority, HOST, Script, ScriptedServer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::sign_in::{PASSWORD, create, state_of, try_settings, try_stored};
use crate::support::{Answer, Api, Servers, User, account, lasting, mail, mail_api, mail_env, merged, owner};

async fn name_server(zone: Zone) -> NameServer {
    lasting(async { NameServer::start(zone).await }).await
}

/// The environment of functions that ask this name server, and reach hosts of these networks on these ports.
async fn guarded(names: &NameServer, networks: &str, ports: &str) -> BTreeMap<&'static str, String> {
    let mut env = mail_env().await;
    env.insert("MAIL_NAME_SERVERS", names.address().to_string());
    env.insert("MAIL_PRIVATE_NETWORKS", networks.into());
    env.insert("MAIL_PORTS", ports.into());
    env
}

fn settings(host: &str, port: u16) -> Value {
    account(json!({"hostname": host, "port": port}))
}

/// How many clients wait at a listener that nobody has accepted from.
async fn clients(listener: &TcpListener) -> usize {
    let mut clients = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await {
        clients += 1;
    }
    clients
}

/// 127.0.0.2 stands for a public address: it is open to these functions, and 127.0.0.1 is not.
#[tokio::test]
async fn a_name_that_moves_to_the_loopback_after_it_was_looked_at_leads_nowhere() {
    let (public, inner, port) = loop {
        let public = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = public.local_addr().unwrap().port();
        // What is free at one address may be taken at the other.
        if let Ok(inner) = TcpListener::bind(("127.0.0.1", port)).await {
            break (public, inner, port);
        }
    };
    let zone = Zone::new().a("mail.moving.example", "127.0.0.2").then().a("mail.moving.example", "127.0.0.1");
    let names = name_server(zone).await;
    let api = Api::start(guarded(&names, "127.0.0.2/32", &port.to_string()).await).await;
    let user = User::new();
    let hang_up = async { drop(public.accept().await.unwrap()) };
    let (first, ()) = tokio::join!(try_settings(&api, &user, settings("mail.moving.example", port)), hang_up);
    assert_eq!(first.body["success"], false, "{first:?}");
    assert_eq!(names.questions().iter().filter(|asked| *asked == "mail.moving.example A").count(), 1, "once in a try");
    let second = try_settings(&api, &user, settings("mail.moving.example", port)).await;
    assert_eq!(second.body["incoming"]["code"], "unreachable", "{second:?}");
    assert_eq!((clients(&public).await, clients(&inner).await), (0, 0));
}

#[tokio::test]
async fn without_networks_of_the_operators_own_nothing_private_is_reached_however_it_is_written() {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inner.local_addr().unwrap().port();
    let zone = Zone::new()
        .a("inner.example", "127.0.0.1")
        .aaaa("inner.example", "::1")
        .aaaa("mapped.example", "::ffff:127.0.0.1")
        .aaaa("translated.example", "64:ff9b::7f00:1")
        .cname("alias.example", "localhost")
        .a("platform.example", "169.254.169.254");
    let names = name_server(zone).await;
    let api = Api::start(guarded(&names, "", "*").await).await;
    let hosts = [
        "inner.example",
        "mapped.example",
        "translated.example",
        "alias.example",
        "platform.example",
        "localhost",
        "127.0.0.1",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "localhost.",
    ];
    let tries = hosts.map(|host| {
        let api = &api;
        async move { (host, api.post("/api/accounts/test", settings(host, port)).by(&User::new()).send().await) }
    });
    let mut tried = 0;
    for (host, answer) in join_all(tries).await {
        // Some are no host names at all.
        if answer.status == 200 {
            assert_eq!(answer.body["incoming"]["code"], "unreachable", "{host}: {answer:?}");
            tried += 1;
        } else {
            answer.is_refused(400);
        }
    }
    assert!(tried >= 8, "{tried}");
    assert_eq!(clients(&inner).await, 0);
}

#[tokio::test]
async fn what_is_blocked_and_what_is_closed_answer_alike_in_code_words_and_time() {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = inner.local_addr().unwrap().port();
    let closed = {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let names = name_server(Zone::new().a("closed.example", "127.0.0.2").a("blocked.example", "127.0.0.1")).await;
    let api = Api::start(guarded(&names, "127.0.0.2/32", &format!("{open},{closed}")).await).await;
    // The start of the function is nobody's.
    let warm = || api.post("/api/accounts/test", json!({})).by(&User::new()).send();
    tokio::join!(warm(), warm());
    let kinds =
        [("closed.example", closed), ("blocked.example", open), ("closed.example", 1), ("unknown.example", open)];
    let tries = kinds.iter().flat_map(|kind| [kind; 3]).map(|(host, port)| {
        let api = &api;
        async move {
            let answer = api.post("/api/accounts/test", settings(host, *port)).by(&User::new()).send().await;
            let log = api.log_of(&answer).await;
            (answer.body, log["durationMs"].as_f64().unwrap())
        }
    });
    let tried = join_all(tries).await;
    let expected = &tried[0].0;
    assert_eq!(expected["incoming"]["code"], "unreachable");
    for (body, _) in &tried {
        assert_eq!(body, expected);
    }
    // On the full second, whatever was done until then took; the quickest of each kind is disturbed least.
    let quickest: Vec<f64> =
        tried.chunks(3).map(|tries| tries.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min)).collect();
    for time in &quickest {
        assert!((1000.0..1900.0).contains(time), "{quickest:?}");
    }
    assert_eq!(clients(&inner).await, 0);
}

async fn autoconfig(api: &Api, user: &User, address: &str) -> Answer {
    api.get(&format!("/api/autoconfig?emailAddress={address}")).by(user).send().await
}

#[tokio::test]
async fn settings_are_found_from_an_address() {
    let zone = Zone::new()
        .srv("_imaps._tcp.company.example", 0, 1, 993, "imap.company.example")
        .srv("_submissions._tcp.company.example", 0, 1, 465, "smtp.company.example")
        .srv("_pop3s._tcp.company.example", 0, 0, 0, ".")
        .mx("hosted.example", 10, "aspmx.l.google.com");
    let names = name_server(zone).await;
    let (api, user) = (Api::start(guarded(&names, "", "").await).await, User::new());
    let found = autoconfig(&api, &user, "jane%40company.example").await;
    assert_eq!(found.status, 200, "{found:?}");
    let server = |protocol: &str, host: &str, port: u16| json!({"protocol": protocol, "hostname": host, "port": port, "encryption": "tls", "username": "jane@company.example"});
    assert_eq!(found.body["source"], "srv");
    assert_eq!(found.body["emailAddress"], "jane@company.example");
    assert_eq!(found.body["incoming"], json!([server("imap", "imap.company.example", 993)]));
    assert_eq!(found.body["smtp"], json!([server("smtp", "smtp.company.example", 465)]));
    assert!(found.body["evidence"].as_array().is_some_and(|evidence| !evidence.is_empty()), "{found:?}");
    assert!(names.questions().iter().all(|asked| !asked.contains("jane")), "name servers learn the domain alone");

    let asked = names.questions().len();
    let table = autoconfig(&api, &user, "jane%40gmail.com").await;
    assert_eq!((table.status, &table.body["source"]), (200, &json!("table")), "{table:?}");
    assert_eq!(table.body["appPassword"]["required"], true, "{table:?}");
    assert_eq!(names.questions().len(), asked, "nobody is asked about what the table knows");
    let hosted = autoconfig(&api, &user, "jane%40hosted.example").await;
    assert_eq!((hosted.status, &hosted.body["source"]), (200, &json!("mxTable")), "{hosted:?}");
    assert_eq!(hosted.body["incoming"][0]["hostname"], table.body["incoming"][0]["hostname"]);

    autoconfig(&api, &user, "jane%40nobody.example").await.is_refused(404);
    for bad in ["", "jane", "jane%40", "jane%40localhost", "a%0d%0ab%40company.example"] {
        let refused = autoconfig(&api, &user, bad).await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), ["emailAddress"]);
        if bad == "jane%40" {
            break;
        }
    }
    api.get("/api/autoconfig?emailAddress=jane%40gmail.com").send().await.is_refused(401);
    api.get("/api/autoconfig").by(&User::new()).send().await.is_refused(400);
}

#[tokio::test]
async fn a_silent_server_is_given_up_on_in_time_also_by_a_function_that_has_yet_to_start() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (api, user) = (Api::start(mail_env().await).await, User::new());
    let both = json!({"hostname": "localhost", "port": port, "smtpHostname": "localhost", "smtpPort": port});
    let (_, path) = create(&api, &user, both).await;
    let started = Instant::now();
    let answer = try_stored(&api, &user, &path).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for server in ["incoming", "smtp"] {
        assert_eq!(answer.body[server]["code"], "unreachable", "{answer:?}");
    }
    assert_eq!(state_of(&api, &user, &path).await["state"], "connectError");
}

#[tokio::test]
async fn hostile_servers_cost_a_function_little_memory() {
    let mut env = mail_env().await;
    env.insert("MAIL_ALLOW_PLAINTEXT", "true".into());
    let api = Api::start_as(env, PayloadVersion::V2, 1).await;
    let flood = vec![b'x'; 64 * 1024];
    let greeting = Script::new().say("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready\r\n");
    for (what, script) in [
        ("an endless line", Script::new().say("* OK ").endless(&flood)),
        ("an endless list of lines", greeting.clone().endless("* OK more\r\n".repeat(1000))),
        ("a literal of 2 GB", greeting.clone().say("* LIST () \"/\" {2147483648}\r\n").endless(&flood)),
        ("100,000 parentheses", greeting.say(format!("* LIST {}", "(".repeat(100_000))).endless(&flood)),
    ] {
        let server = lasting(async { ScriptedServer::start(script, Authority::new().server(HOST)).await }).await;
        let hostile = settings("localhost", server.address().port());
        let answer = try_settings(&api, &User::new(), merged(hostile, json!({"encryption": "none"}))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["incoming"]["code"], "protocol", "{what}: {answer:?}");
        assert_eq!(server.connections(), 1);
    }
    let pid = api.gateway.pids("test-settings").unwrap()[0];
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    assert!(peak.parse::<u32>().unwrap() < 64 * 1024, "{peak} kB");
}

/// An account of a server that a test plays: it hears of each client, and decides what comes of it.
async fn played(api: &Api, user: &User) -> (TcpListener, Value, String) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (created, path) = create(api, user, json!({"port": server.local_addr().unwrap().port()})).await;
    (server, created, path)
}

#[tokio::test]
async fn a_function_killed_in_the_middle_of_a_try_leaves_what_is_true() {
    let (api, user) = (Api::start_as(mail_env().await, PayloadVersion::V2, 1).await, User::new());
    let (server, created, path) = played(&api, &user).await;
    let url = format!("{}{path}/test", api.url());
    let request = reqwest::Client::new().post(url).bearer_auth(user.token()).send();
    let killer = async {
        let client = server.accept().await.unwrap();
        api.signal("test-account", "KILL");
        client
    };
    let (answer, _) = tokio::join!(request, killer);
    assert!(answer.unwrap().status().is_server_error());
    let after = api.get(&path).by(&user).send().await.body;
    assert_eq!(after, created, "nothing came of it");
    let put = json!({"port": mail().await.ports().imaps});
    assert_eq!(api.put(&path, put).by(&user).send().await.status, 200);
    assert_eq!(try_stored(&api, &user, &path).await.body["success"], true, "another process has taken over");
}

#[tokio::test]
async fn a_postgresql_that_dies_during_a_try_is_a_plain_500_and_leaves_what_is_true() {
    let mut servers = Servers::start().await;
    let mut env = mail_env().await;
    env.extend(servers.env());
    let (api, user) = (Api::start(env).await, User::new());
    let (server, created, path) = played(&api, &user).await;
    let crash = async {
        let client = server.accept().await.unwrap();
        servers.postgres.kill().unwrap();
        drop(client);
    };
    let (answer, ()) = tokio::join!(try_stored(&api, &user, &path), crash);
    answer.is_refused(500);
    try_stored(&api, &user, &path).await.is_refused(500);
    servers.postgres.start_again().unwrap();
    assert_eq!(api.get(&path).by(&user).send().await.body, created, "nothing came of it");
    let put = json!({"port": mail().await.ports().imaps});
    assert_eq!(api.put(&path, put).by(&user).send().await.status, 200);
    assert_eq!(try_stored(&api, &user, &path).await.body["success"], true);
}

#[tokio::test]
async fn without_redis_tries_are_counted_in_the_process() {
    let mut servers = Servers::start().await;
    let mut env = mail_env().await;
    env.extend(servers.env());
    env.insert("RATE_LIMIT_PER_MINUTE", "50".into());
    let (api, user) = (Api::start_as(env, PayloadVersion::V2, 1).await, User::new());
    servers.redis.kill().unwrap();
    for _ in 0..10 {
        api.post("/api/accounts/test", json!({})).by(&user).send().await.is_refused(400);
    }
    let refused = api.post("/api/accounts/test", json!({})).by(&user).send().await;
    refused.is_refused(429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(api.log_of(&refused).await["rateLimitFallback"], true);
    api.post("/api/accounts/test", json!({})).by(&user.colleague()).send().await.is_refused(400);
}

#[tokio::test]
async fn of_two_tries_at_once_of_a_refused_login_one_is_made() {
    let (api, user) = (mail_api().await, User::new());
    let (created, path) = create(api, &user, json!({"password": "wrong"})).await;
    try_stored(api, &user, &path).await;
    assert_eq!(state_of(api, &user, &path).await["state"], "authenticationError");
    // As if a minute had passed.
    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    let set = "update email_accounts set tried_at = tried_at - 60000 where id = $1";
    owner().await.execute(set, &[&id]).await.unwrap();
    let (one, other) = tokio::join!(try_stored(api, &user, &path), try_stored(api, &user, &path));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429], "{one:?} {other:?}");
}

/// What does not matter to signing in is no other try; what does matter is another login, and none of its business.
#[tokio::test]
async fn a_refused_login_is_not_repeated_by_way_of_a_field_that_does_not_matter() {
    let (api, user) = (mail_api().await, User::new());
    let (_, path) = create(api, &user, json!({"password": "wrong"})).await;
    try_stored(api, &user, &path).await;
    let test = format!("{path}/test");
    for change in [json!({"accountName": "x"}), json!({"syncInterval": 60, "isSyncEnabled": false}), json!({})] {
        let answer = api.post(&test, change.clone()).by(&user).send().await;
        assert_eq!(answer.status, 429, "{change}: {answer:?}");
    }
    let answer = api.post(&test, json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!((answer.status, &answer.body["success"]), (200, &json!(true)), "{answer:?}");
}

#[tokio::test]
async fn a_change_during_a_try_is_not_judged_by_it() {
    let (api, user) = (mail_api().await, User::new());
    for change in [json!({"password": PASSWORD}), json!({"smtpPassword": null}), json!({"username": "another"})] {
        let (server, _, path) = played(api, &user).await;
        let changing = async {
            let client = server.accept().await.unwrap();
            assert_eq!(api.put(&path, change.clone()).by(&user).send().await.status, 200);
            drop(client);
        };
        let (answer, ()) = tokio::join!(try_stored(api, &user, &path), changing);
        assert_eq!((answer.status, &answer.body["success"]), (200, &json!(false)), "{answer:?}");
        let expected = json!({"state": "new", "code": null, "service": null});
        assert_eq!(state_of(api, &user, &path).await, expected, "{change}");
    }
}

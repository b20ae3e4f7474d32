//! What a request costs, in counts that do not depend on how busy the machine is. Times are `cargo bench`'s matter,
//! and round trips are counted in `database.rs`.

use serde_json::{Value, json};
use uuid::Uuid;
use xtask::environment::Environment;
use xtask::install::{Tool, ensure_installed};

use crate::support::{User, account, api, binaries, servers};

/// More heap allocations per request than this are a regression; far fewer are a reason to lower the limit.
const LIMITS: [(&str, u64); 3] = [("get-account", 270), ("list-accounts", 400), ("create-account", 360)];
/// As many more requests in the second run than in the first: what start-up allocates cancels out.
const MORE: usize = 40;

#[tokio::test]
async fn a_request_allocates_no_more_than_it_did() {
    ensure_installed(&[Tool::Valgrind]).unwrap();
    let user = User::new();
    let mut id = Value::Null;
    for n in 0..3 {
        id = api().await.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await["id"].clone();
    }
    let mut env: Vec<_> = servers().await.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    env.push(("LOG_LEVEL".into(), "info".into()));
    for (function, limit) in LIMITS {
        let events = |count: usize| (0..count).map(|_| event(function, &user, &id)).collect();
        let few = allocations(function, &env, || events(5)).await;
        let many = allocations(function, &env, || events(5 + MORE)).await;
        let each = (many - few) / MORE as u64;
        assert!(each <= limit, "{function} allocates {each} times per request, which may be {limit}");
        assert!(each > limit / 2, "{function} allocates {each} times per request: lower its limit of {limit}");
    }
}

fn event(function: &str, user: &User, id: &Value) -> Vec<u8> {
    let path = xtask::workspace_root().join(format!("tests/events/{function}.json"));
    let mut event: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    event["headers"] = json!({"authorization": format!("Bearer {}", user.token())});
    event["pathParameters"] = json!({"id": id});
    if function == "create-account" {
        event["body"] = account(json!({"emailAddress": format!("{}@example.com", Uuid::new_v4())})).to_string().into();
    }
    event.to_string().into()
}

/// How often a function's process allocates in its whole life, answering these events. Valgrind makes it some fifty times
/// slower: on a busy machine it may run into a time limit of its own and is then started anew.
async fn allocations(function: &str, env: &[(String, String)], events: impl Fn() -> Vec<Vec<u8>>) -> u64 {
    for _ in 0..5 {
        let (binary, env, events) = (binaries().join(function), env.to_vec(), events());
        let words = tokio::task::spawn_blocking(move || {
            let counted = ["valgrind", "--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"];
            let mut environment = Environment::start(&binary, &env, &counted).unwrap();
            for event in events {
                let answer = environment.invoke(&event).unwrap().json().unwrap();
                if answer["statusCode"] == 500 {
                    return None;
                }
                assert!(answer["statusCode"].as_u64() < Some(300), "{answer}");
            }
            Some(environment.end().unwrap())
        });
        let Some(words) = words.await.unwrap() else { continue };
        let total = words.split("total heap usage: ").nth(1).and_then(|rest| rest.split(' ').next());
        return total.unwrap_or_else(|| panic!("valgrind counted nothing: {words}")).replace(',', "").parse().unwrap();
    }
    panic!("{function} answers with a 500 under valgrind each time")
}

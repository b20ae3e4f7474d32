//! One user at work, and what it knows of its accounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::caller::{Caller, PASSWORD};

/// Between two requests: the mailboxes' users want to be served, too.
const PAUSE: Duration = Duration::from_millis(60);
/// Beyond it, accounts are deleted.
const MANY: usize = 30;

/// What an account may be: its port, or nothing where it is not there (any more).
type State = Option<i64>;

#[derive(Debug, Default)]
struct Known {
    id: Option<String>,
    /// One, unless a write failed and may have happened all the same.
    states: BTreeSet<State>,
}

pub(super) struct Client {
    caller: Caller,
    /// By email address, each used once.
    known: BTreeMap<String, Known>,
    created: u64,
}

impl Client {
    pub(super) fn new(caller: Caller) -> Self {
        Self { caller, known: BTreeMap::new(), created: 0 }
    }

    pub(super) async fn work(mut self) -> Result<Self> {
        while !self.caller.run.is_over() {
            sleep(PAUSE).await;
            match (rand::random_range(0..10), self.oldest()) {
                (0..=2, _) | (_, None) => self.create().await?,
                (3..=4, _) => self.update().await?,
                (5, Some((address, id))) => self.delete(&address, &id).await?,
                (6..=7, _) => drop(self.list().await?),
                (8, Some((address, id))) => self.find(&address, &id).await?,
                _ => self.misbehave().await?,
            }
            if self.known.len() > MANY
                && let Some((address, id)) = self.oldest()
            {
                self.delete(&address, &id).await?;
            }
        }
        Ok(self)
    }

    /// Once more all that is known against all that is there; returns how many accounts there are.
    pub(super) async fn check_at_the_end(mut self) -> Result<usize> {
        // The last fault may have an aftermath, but no longer than that.
        while !self.list().await? {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(self.known.len())
    }

    /// Address and id of the first account whose id is known.
    fn oldest(&self) -> Option<(String, String)> {
        self.known.iter().find_map(|(address, known)| Some((address.clone(), known.id.clone()?)))
    }

    async fn create(&mut self) -> Result<()> {
        self.created += 1;
        let address = format!("{:06}@{}.example.com", self.created, self.caller.user);
        let port = port();
        let body = account(&address, port);
        let answer = self.caller.ask("create", "POST", "/api/accounts", Some(&body), &[201]).await?;
        let mut known = Known { id: None, states: BTreeSet::from([Some(port)]) };
        if answer.status == 201 {
            known.id = answer.body["id"].as_str().map(str::to_owned);
            self.compare(&answer.body, &known.states, &address);
        } else {
            known.states.insert(None);
        }
        self.known.insert(address, known);
        Ok(())
    }

    async fn update(&mut self) -> Result<()> {
        let settled: Vec<_> = self.known.iter().filter(|(_, known)| known.id.is_some()).collect();
        let chosen = settled.get(rand::random_range(0..settled.len().max(1)));
        let Some((address, known)) = chosen else { return Ok(()) };
        let (address, id, port) = ((*address).clone(), known.id.clone().context("has an id")?, port());
        let body = json!({ "port": port, "password": PASSWORD });
        let path = format!("/api/accounts/{id}");
        let answer = self.caller.ask("update", "PUT", &path, Some(&body), self.found(&address)).await?;
        match answer.status {
            200 => {
                let states = BTreeSet::from([Some(port)]);
                self.compare(&answer.body, &states, &address);
                self.settle(&address, states);
            }
            404 => self.settle(&address, BTreeSet::from([None])),
            _ => drop(self.known.entry(address).or_default().states.insert(Some(port))),
        }
        Ok(())
    }

    async fn delete(&mut self, address: &str, id: &str) -> Result<()> {
        let path = format!("/api/accounts/{id}");
        let answer = self.caller.ask("delete", "DELETE", &path, None, self.found(address)).await?;
        if matches!(answer.status, 200 | 404) {
            self.settle(address, BTreeSet::from([None]));
        } else {
            self.known.entry(address.to_owned()).or_default().states.insert(None);
        }
        Ok(())
    }

    async fn find(&mut self, address: &str, id: &str) -> Result<()> {
        let path = format!("/api/accounts/{id}");
        let answer = self.caller.ask("get", "GET", &path, None, self.found(address)).await?;
        match answer.status {
            200 => {
                self.compare(&answer.body, &self.states(address), address);
                self.settle(address, BTreeSet::from([answer.body["port"].as_i64()]));
            }
            404 => self.settle(address, BTreeSet::from([None])),
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the list was answered.
    async fn list(&mut self) -> Result<bool> {
        let answer = self.caller.ask("list", "GET", "/api/accounts?limit=1000", None, &[200]).await?;
        if answer.status != 200 {
            return Ok(false);
        }
        let listed = answer.body["accounts"].as_array().cloned().unwrap_or_default();
        if answer.body["pagination"]["total"] != json!(listed.len()) {
            self.caller.run.differs(format!("{} accounts, and a total of {}", listed.len(), answer.body["pagination"]));
        }
        let mut addresses = BTreeSet::new();
        for account in &listed {
            let address = account["emailAddress"].as_str().unwrap_or_default().to_owned();
            self.compare(account, &self.states(&address), &address);
            let known = self.known.entry(address.clone()).or_default();
            known.id = account["id"].as_str().map(str::to_owned);
            known.states = BTreeSet::from([account["port"].as_i64()]);
            if !addresses.insert(address) {
                self.caller.run.differs(format!("listed twice: {account}"));
            }
        }
        let missing: Vec<_> = self.known.keys().filter(|address| !addresses.contains(*address)).cloned().collect();
        for address in missing {
            if !self.states(&address).contains(&None) {
                self.caller.run.differs(format!("an acknowledged account is lost: {address}"));
            }
            self.known.remove(&address);
        }
        Ok(true)
    }

    /// What must be refused: no token, a bad body, an id of nobody, an address that is taken.
    async fn misbehave(&mut self) -> Result<()> {
        match rand::random_range(0..4) {
            0 => {
                let token = std::mem::take(&mut self.caller.token);
                let answer = self.caller.ask("without a token", "GET", "/api/accounts", None, &[401]).await;
                self.caller.token = token;
                answer?;
            }
            1 => {
                let body = json!({ "port": "993", "password": PASSWORD });
                self.caller.ask("bad body", "POST", "/api/accounts", Some(&body), &[400]).await?;
            }
            2 => {
                let path = format!("/api/accounts/{}", Uuid::now_v7());
                self.caller.ask("unknown id", "GET", &path, None, &[404]).await?;
            }
            _ => {
                let certain = |known: &Known| !known.states.contains(&None);
                let taken = self.known.iter().find(|(_, known)| certain(known)).map(|(address, _)| address.clone());
                if let Some(address) = taken {
                    let body = account(&address.to_uppercase(), 1);
                    self.caller.ask("taken address", "POST", "/api/accounts", Some(&body), &[409]).await?;
                }
            }
        }
        Ok(())
    }

    fn states(&self, address: &str) -> BTreeSet<State> {
        self.known.get(address).map(|known| known.states.clone()).unwrap_or_default()
    }

    /// The statuses that an account's request may be answered with.
    fn found(&self, address: &str) -> &'static [u16] {
        if self.states(address).contains(&None) { &[200, 404] } else { &[200] }
    }

    fn settle(&mut self, address: &str, states: BTreeSet<State>) {
        if states == BTreeSet::from([None]) {
            self.known.remove(address);
        } else if let Some(known) = self.known.get_mut(address) {
            known.states = states;
        }
    }

    /// An account must be ours, have one of these states, and be whole.
    fn compare(&self, account: &Value, states: &BTreeSet<State>, address: &str) {
        let own = account["tenantId"] == json!(self.caller.tenant) && account["userId"] == json!(self.caller.user);
        let fits = account["emailAddress"] == address && states.contains(&account["port"].as_i64());
        if !own || !fits || account["isEnabled"] != json!(true) {
            self.caller
                .run
                .differs(format!("{} expects {address} with one of {states:?}: {account}", self.caller.user));
        }
    }
}

fn port() -> i64 {
    rand::random_range(1..=65535)
}

fn account(address: &str, port: i64) -> Value {
    json!({
        "accountName": "Soak", "emailAddress": address, "protocol": "imap", "hostname": "imap.example.com",
        "port": port, "username": "soak", "password": PASSWORD, "isSyncEnabled": false
    })
}

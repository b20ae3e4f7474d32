//! A mailbox's user: reads, marks, deletes and sends through the API, and looks whether all of it is theirs and as it was
//! written.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use form_urlencoded::byte_serialize;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    lock,
    mailbox::{Entry, Mailbox, body},
};

pub(super) struct User {
    pub(super) mailbox: Arc<Mailbox>,
    /// Whom messages may be sent to: an address, and its marker.
    others: Vec<(String, String)>,
    /// Id and subject of those that the last list showed.
    listed: Vec<(String, String)>,
    /// The ids of a copy that follows the changes, since this cursor.
    copy: BTreeSet<String>,
    cursor: Option<String>,
}

impl User {
    pub(super) fn new(mailbox: Arc<Mailbox>, others: Vec<(String, String)>) -> Self {
        Self { mailbox, others, listed: Vec::new(), copy: BTreeSet::new(), cursor: None }
    }

    pub(super) async fn work(mut self) -> Result<Self> {
        while !self.mailbox.caller.run.is_over() {
            sleep(Duration::from_millis(rand::random_range(50..350))).await;
            match rand::random_range(0..14) {
                0..=1 => self.synchronise().await?,
                2 => drop(self.how_it_stands().await?),
                3..=4 => drop(self.list().await?),
                5..=7 => _ = self.follow().await?,
                8..=10 => self.read().await?,
                11 => self.mark().await?,
                12 => self.delete().await?,
                _ => self.send().await?,
            }
        }
        Ok(self)
    }

    pub(super) async fn synchronise(&self) -> Result<()> {
        let path = format!("/api/accounts/{}/sync", self.mailbox.account);
        let answer = self.mailbox.caller.ask("sync", "POST", &path, None, &[202]).await?;
        if answer.status == 202 && answer.body["accountId"] != self.mailbox.account.as_str() {
            self.differs("asked for a synchronisation of", &answer.body);
        }
        Ok(())
    }

    pub(super) async fn how_it_stands(&self) -> Result<Value> {
        let path = format!("/api/accounts/{}/sync", self.mailbox.account);
        Ok(self.mailbox.caller.ask("sync status", "GET", &path, None, &[200]).await?.body)
    }

    /// All messages, checked; nothing if a page was not answered.
    pub(super) async fn list(&mut self) -> Result<Option<Vec<Value>>> {
        let (mut all, mut path) = (Vec::new(), "/api/messages?limit=100".to_owned());
        loop {
            let mut answer = self.mailbox.caller.ask("list mail", "GET", &path, None, &[200]).await?;
            if answer.status != 200 {
                return Ok(None);
            }
            let page = answer.body["messages"].as_array_mut().map(std::mem::take).unwrap_or_default();
            page.iter().for_each(|message| self.check(message));
            all.extend(page);
            let Some(cursor) = answer.body["nextCursor"].as_str() else { break };
            path = format!("/api/messages?limit=100&cursor={}", byte_serialize(cursor.as_bytes()).collect::<String>());
        }
        self.listed = all.iter().map(|message| (text(message, "id"), text(message, "subject"))).collect();
        let ids: BTreeSet<_> = self.listed.iter().map(|(id, _)| id).collect();
        if ids.len() < all.len() {
            self.mailbox.caller.run.differs(format!("{} sees a message twice in a list", self.mailbox.address));
        }
        Ok(Some(all))
    }

    /// A message must be of this account, and its subject says that it is for this user.
    fn check(&self, message: &Value) {
        let is_own = text(message, "subject").split(' ').any(|word| word == self.mailbox.marker);
        if !is_own || message["accountId"] != self.mailbox.account.as_str() {
            self.differs("sees what is somebody else's:", message);
        }
    }

    /// Goes along with the changes; returns whether all are known.
    pub(super) async fn follow(&mut self) -> Result<bool> {
        let Some(mut cursor) = self.cursor.clone() else {
            let answer = self.mailbox.caller.ask("first cursor", "GET", "/api/changes", None, &[200]).await?;
            let (Some(cursor), Some(all)) = (answer.body["cursor"].as_str(), self.list().await?) else {
                return Ok(false);
            };
            self.cursor = Some(cursor.to_owned());
            self.copy = all.iter().map(|message| text(message, "id")).collect();
            return Ok(false);
        };
        loop {
            let path = format!("/api/changes?since={}", byte_serialize(cursor.as_bytes()).collect::<String>());
            let answer = self.mailbox.caller.ask("changes", "GET", &path, None, &[200]).await?;
            let Some(next) = answer.body["cursor"].as_str() else { return Ok(false) };
            for change in answer.body["changes"].as_array().into_iter().flatten() {
                if change["accountId"] != self.mailbox.account.as_str() {
                    self.differs("is told of a change of somebody else's:", change);
                }
                match (change["type"].as_str(), change["change"].as_str()) {
                    (Some("message"), Some("destroyed")) => _ = self.copy.remove(&text(change, "id")),
                    (Some("message"), _) => _ = self.copy.insert(text(change, "id")),
                    _ => {}
                }
            }
            cursor = next.to_owned();
            self.cursor = Some(cursor.clone());
            if answer.body["hasMore"] != json!(true) {
                return Ok(true);
            }
        }
    }

    /// The copy that followed the changes must have what a list shows.
    pub(super) fn compare_copy(&self) -> Option<String> {
        let listed: BTreeSet<_> = self.listed.iter().map(|(id, _)| id.clone()).collect();
        let odd: Vec<_> = listed.symmetric_difference(&self.copy).collect();
        (!odd.is_empty()).then(|| format!("{}: list and followed changes differ in {odd:?}", self.mailbox.address))
    }

    fn any_listed(&self) -> Option<(String, String)> {
        self.listed.get(rand::random_range(0..self.listed.len().max(1))).cloned()
    }

    async fn read(&self) -> Result<()> {
        let Some((id, subject)) = self.any_listed() else { return Ok(()) };
        let path = format!("/api/messages/{id}");
        let answer = self.mailbox.caller.ask("read", "GET", &path, None, &[200, 404]).await?;
        if answer.status == 200 {
            self.check(&answer.body);
            let said: Vec<_> =
                answer.body["text"].as_str().unwrap_or_default().trim_end().lines().map(str::trim_end).collect();
            if answer.body["subject"] != subject.as_str() || said.join("\n") != body(&subject) {
                self.differs(&format!("reads something else than {subject}:"), &answer.body);
            }
        }
        Ok(())
    }

    async fn mark(&self) -> Result<()> {
        let Some((id, subject)) = self.any_listed() else { return Ok(()) };
        let (path, set) = (format!("/api/messages/{id}"), rand::random::<bool>());
        let change = json!({ "isFlagged": set });
        let answer = self.mailbox.caller.ask("mark", "PUT", &path, Some(&change), &[200, 404, 409]).await?;
        if answer.status == 200
            && (answer.body["isFlagged"] != json!(set) || answer.body["subject"] != subject.as_str())
        {
            self.differs(&format!("marks {subject}, and gets"), &answer.body);
        }
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        let Some((id, subject)) = self.any_listed() else { return Ok(()) };
        // From the trash it goes for good.
        lock(&self.mailbox.kept).remove(&subject);
        let path = format!("/api/messages/{id}");
        self.mailbox.caller.ask("delete mail", "DELETE", &path, None, &[200, 404, 409]).await.map(drop)
    }

    /// Puts a message into the outbox until it is known to be there, and at times once more.
    async fn send(&self) -> Result<()> {
        let Mailbox { caller, marker, account, sent, .. } = &*self.mailbox;
        let number = self.mailbox.next_number();
        let nobody = (format!("{number}@outside.example"), "outside".to_owned());
        let chosen = self.others.get(rand::random_range(0..self.others.len() * 2)).cloned();
        let (to, to_marker) = chosen.unwrap_or(nobody);
        let subject = format!("{marker} to {to_marker} number {number}");
        let message = json!({
            "accountId": account, "to": [{ "address": to }], "subject": subject, "text": body(&subject),
        });
        let key = Uuid::new_v4().to_string();
        let (mut id, mut again) = (None, rand::random_range(0..4) == 0);
        let mut expected: &[u16] = &[202];
        loop {
            let answer =
                caller.ask_with("send", "POST", "/api/outbox", Some(&message), Some(key.as_str()), expected).await?;
            if answer.status == 202 {
                let now = text(&answer.body, "id");
                let first = id.get_or_insert_with(|| now.clone());
                if *first != now || answer.body["subject"] != subject.as_str() {
                    self.differs(&format!("sent {subject} as {first}, and again as"), &answer.body);
                }
                if !std::mem::take(&mut again) {
                    break;
                }
            }
            // The first may still be at work.
            expected = &[202, 409];
            sleep(Duration::from_millis(200)).await;
        }
        let id = id.context("no id")?;
        lock(sent).insert(subject, Entry { id, to });
        Ok(())
    }

    fn differs(&self, what: &str, value: &Value) {
        self.mailbox.caller.run.differs(format!("{} {what} {value}", self.mailbox.address));
    }
}

pub(super) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

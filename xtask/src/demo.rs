//! Accounts to look at, created through the HTTP API like any others.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, client::conn::http1::handshake, http::request::Builder};
use hyper_util::rt::TokioIo;
use local::mail_server::Dovecot;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The development user, the same at every start so that pasted commands keep working.
pub(crate) const TENANT: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const USER: &str = "22222222-2222-4222-8222-222222222222";
const COLLEAGUE: &str = "33333333-3333-4333-8333-333333333333";
const OTHER_TENANT: &str = "44444444-4444-4444-8444-444444444444";

const ACCOUNTS: [(&str, &str, &str, &str, u16, &str); 4] = [
    (TENANT, USER, "work", "imap", 993, "tls"),
    (TENANT, USER, "archive", "pop3", 110, "starttls"),
    (TENANT, COLLEAGUE, "colleague", "imap", 143, "starttls"),
    (OTHER_TENANT, USER, "other-tenant", "pop3", 995, "tls"),
];

/// The user of the local mail server. Validation wants a domain with a dot; nobody can have this one.
pub(crate) const DEMO_ADDRESS: &str = "demo@mail.example";
pub(crate) const DEMO_PASSWORD: &str = "demo password";

/// A second mailbox with the same password, to write to, and to be added.
pub(crate) const GUEST_ADDRESS: &str = "grace@mail.example";

const GRACE: &str = "Grace Hopper <grace@mail.example>";

/// What is in the demo mailbox: sender, subject, date and text, the newest last.
const MESSAGES: [(&str, &str, &str, &str); 3] = [
    (
        "Ada Lovelace <ada@mail.example>",
        "Notes on the engine",
        "Mon, 02 Nov 2026 09:00:00 +0000",
        "The translation is done. The notes are longer than the text.",
    ),
    (
        "=?utf-8?q?J=C3=BCrgen?= <juergen@mail.example>",
        "=?utf-8?b?R3LDvMOfZSBhdXMgS8O2bG4=?=",
        "Tue, 03 Nov 2026 18:30:00 +0100",
        "Bis bald!",
    ),
    (
        GRACE,
        "Re: Notes on the engine",
        "Wed, 04 Nov 2026 08:15:00 -0500",
        "I found something in relay 70. See you on Friday?",
    ),
];

/// What a newsletter has: HTML, a picture from elsewhere, one of its own, and a file.
const NEWSLETTER: &str = "\
From: The Analytical Review <review@mail.example>
To: demo@mail.example
Subject: This week: engines that weave
Date: Thu, 05 Nov 2026 07:00:00 +0000
Message-ID: <newsletter.demo@mail.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/related; boundary=inner

--inner
Content-Type: text/html; charset=utf-8

<div style=\"max-width: 600px; margin: 0 auto; font-family: Georgia, serif\">
<h1 style=\"color: #3557d6\"><img src=\"cid:seal\" width=\"24\" height=\"24\" alt=\"\"> The Analytical Review</h1>
<p>Dear reader,</p>
<p>the engine <b>weaves algebraical patterns</b> just as the loom weaves flowers and leaves. In this issue:</p>
<table style=\"border-collapse: collapse\" cellpadding=\"8\">
<tr style=\"background-color: #eef1ff\"><td>Notes</td><td>What a loop is, and why it ends</td></tr>
<tr><td>Letters</td><td>A moth in the relay</td></tr>
</table>
<p><img src=\"https://pictures.mail.example/loom.png\" width=\"200\" height=\"100\" alt=\"A loom\"></p>
<p><a href=\"https://review.mail.example/issue\">Read the issue</a></p>
</div>
--inner
Content-Type: image/png
Content-Transfer-Encoding: base64
Content-ID: <seal>
Content-Disposition: inline; filename=seal.png

iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mMwDb+GFTEMLQkAbIZYge8COx4AAAAASUVORK5CYII=
--inner--
--outer
Content-Type: text/plain; charset=utf-8; name=contents.txt
Content-Disposition: attachment; filename=contents.txt

Notes: page 1
Letters: page 7
--outer--
";

pub(crate) async fn create_accounts(address: SocketAddr) -> Result<()> {
    for (tenant, user, name, protocol, port, encryption) in ACCOUNTS {
        let email = format!("{name}@example.com");
        let account = json!({
            "accountName": name,
            "emailAddress": email,
            "protocol": protocol,
            "hostname": format!("{protocol}.example.com"),
            "port": port,
            "encryption": encryption,
            "username": email,
            "password": "demo password",
        });
        create(address, tenant, user, &account).await?;
    }
    eprintln!("Created {} demo accounts.", ACCOUNTS.len());
    Ok(())
}

/// A mailbox with a few messages on the local mail server, and the development user's account of it.
pub(crate) async fn create_mailbox(address: SocketAddr, mail: &Dovecot) -> Result<()> {
    mail.add_user(DEMO_ADDRESS, DEMO_PASSWORD)?;
    mail.add_user(GUEST_ADDRESS, DEMO_PASSWORD)?;
    let welcome =
        format!("From: Ada Lovelace <ada@mail.example>\r\nTo: {GRACE}\r\nSubject: Welcome\r\n\r\nHello Grace.\r\n");
    mail.deliver(GUEST_ADDRESS, welcome.as_bytes())?;
    for (index, (from, subject, date, text)) in MESSAGES.iter().enumerate() {
        let message = format!(
            "From: {from}\r\nTo: {DEMO_ADDRESS}\r\nSubject: {subject}\r\nDate: {date}\r\nMessage-ID: \
             <{index}.demo@mail.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
        );
        mail.deliver(DEMO_ADDRESS, message.as_bytes())?;
    }
    mail.deliver(DEMO_ADDRESS, NEWSLETTER.replace('\n', "\r\n").as_bytes())?;
    let account = json!({
        "accountName": "Demo mailbox",
        "emailAddress": DEMO_ADDRESS,
        "protocol": "imap",
        "hostname": "localhost",
        "port": mail.ports().imaps,
        "username": DEMO_ADDRESS,
        "password": DEMO_PASSWORD,
        "smtpHostname": "localhost",
        "smtpPort": mail.ports().submissions,
    });
    if let Some(id) = create(address, TENANT, USER, &account).await? {
        // The schedule would come within a minute.
        let request =
            by(TENANT, USER, Request::post(format!("/api/accounts/{id}/sync")), address).body(String::new())?;
        let answer = send(address, request).await?;
        ensure!(answer.status() == StatusCode::ACCEPTED, "no synchronisation: {} {}", answer.status(), answer.body());
    }
    Ok(())
}

/// As this user, who need not prove it here.
pub(crate) fn by(tenant: &str, user: &str, request: Builder, address: SocketAddr) -> Builder {
    request.header("Host", address.to_string()).header("X-Tenant-ID", tenant).header("X-User-ID", user)
}

/// Returns the account's id, unless it was there.
async fn create(address: SocketAddr, tenant: &str, user: &str, account: &Value) -> Result<Option<String>> {
    let request = by(tenant, user, Request::post("/api/accounts"), address);
    let request = request.header("Content-Type", "application/json").body(account.to_string())?;
    let answer = send(address, request).await.context("cannot reach our own API")?;
    // An external database may hold them from last time.
    let is_there = [StatusCode::CREATED, StatusCode::CONFLICT].contains(&answer.status());
    let name = &account["emailAddress"];
    ensure!(is_there, "the demo account {name} was refused: {} {}", answer.status(), answer.body());
    let created: Value = serde_json::from_str(answer.body())?;
    Ok(created["id"].as_str().map(str::to_owned))
}

/// Sends one request over a connection of its own.
pub(crate) async fn send(address: SocketAddr, request: Request<String>) -> Result<Response<String>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; its errors reach us as those of the request.
    tokio::spawn(connection);
    let response = sender.send_request(request.map(|body| Full::new(Bytes::from(body)))).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
}

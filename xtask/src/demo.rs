//! Accounts to look at, created through the HTTP API like any others.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
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
        let request = Request::post("/api/accounts")
            .header("Host", address.to_string())
            .header("Content-Type", "application/json")
            .header("X-Tenant-ID", tenant)
            .header("X-User-ID", user)
            .body(account.to_string())?;
        let answer = send(address, request).await.context("cannot reach our own API")?;
        // An external database may hold them from last time.
        let is_there = [StatusCode::CREATED, StatusCode::CONFLICT].contains(&answer.status());
        ensure!(is_there, "the demo account {name} was refused: {} {}", answer.status(), answer.body());
    }
    eprintln!("Created {} demo accounts.", ACCOUNTS.len());
    Ok(())
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

//! A name server that says where the local mail server is, so that the search for settings finds it, and hands on what is
//! asked of other domains.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{net::UdpSocket, task::AbortHandle, time::timeout};

/// A datagram of DNS; longer ones are for who asks for them.
const MAX_DATAGRAM: usize = 4096;
/// How long the system's name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer's flags: it is final, and recursion was had.
const ANSWER: [u8; 2] = [0x85, 0x80];
const HEADER: usize = 12;
const SRV: [u8; 2] = [0, 33];
/// `mail.localhost`: this machine, by a name of two labels, as those of mail servers must have.
const TARGET: [u8; 16] = *b"\x04mail\x09localhost\x00";
const NO_SUCH_NAME: u8 = 3;

/// What is said: the domain, and the port of each of its services, such as `_imaps._tcp`, on this machine.
#[derive(Debug)]
struct Zone {
    domain: String,
    services: Vec<(String, u16)>,
}

/// A running name server, which ends with this value.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    task: AbortHandle,
}

impl NameServer {
    /// Starts on a free port of loopback; its task belongs to the Tokio runtime that calls this.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(domain: &str, services: &[(&str, u16)]) -> Result<Self> {
        let services = services.iter().map(|(name, port)| (format!("{name}.{domain}"), *port)).collect();
        let zone = Zone { domain: domain.to_owned(), services };
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for a name server")?);
        let (address, others) = (socket.local_addr()?, system_server());
        let serve = async move {
            let mut buffer = [0; MAX_DATAGRAM];
            loop {
                // Told of a client that is gone, say; the next one is not.
                let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
                let question = buffer[..length].to_vec();
                if let Some(answer) = zone.answer(&question) {
                    let _ = socket.send_to(&answer, client).await;
                } else if let Some(others) = others {
                    let socket = socket.clone();
                    // Who gets no answer asks again.
                    tokio::spawn(timeout(PATIENCE, async move { hand_on(&socket, &question, client, others).await }));
                }
            }
        };
        Ok(Self { address, task: tokio::spawn(serve).abort_handle() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    /// None of what is not in the domain.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = read_name(question)?;
        let is_ours = name == self.domain || name.ends_with(&format!(".{}", self.domain));
        let (kind, asked) = (question.get(end..end + 2)?, question.get(HEADER..end + 4)?);
        if !is_ours {
            return None;
        }
        let service = self.services.iter().find(|(service, _)| *service == name);
        let mut answer = [question.get(..2)?, &ANSWER].concat();
        if service.is_none() && name != self.domain {
            answer[3] |= NO_SUCH_NAME;
        }
        let found = service.filter(|_| kind == SRV);
        answer.extend([0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
        answer.extend(asked);
        if let Some((_, port)) = found {
            // The name of the question; SRV, of the internet, not to be kept; priority and weight.
            answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 0, 0, 6 + 16, 0, 0, 0, 0]);
            answer.extend(port.to_be_bytes());
            answer.extend(TARGET);
        }
        Some(answer)
    }
}

/// The first question's name in small letters, and where it ends.
fn read_name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut place) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*question.get(place)?);
        place += 1;
        if length == 0 {
            return Some((labels.join("."), place));
        }
        let label = question.get(place..place + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        place += length;
    }
}

async fn hand_on(socket: &UdpSocket, question: &[u8], client: SocketAddr, others: SocketAddr) -> Result<()> {
    let any = if others.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let upstream = UdpSocket::bind(any).await?;
    upstream.connect(others).await?;
    upstream.send(question).await?;
    let mut answer = [0; MAX_DATAGRAM];
    let length = upstream.recv(&mut answer).await?;
    socket.send_to(&answer[..length], client).await?;
    Ok(())
}

/// The first name server of the system's.
fn system_server() -> Option<SocketAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").ok()?;
    let addresses = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    addresses.map(|address| (address, 53).into()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question as clients send it.
    fn question(name: &str, kind: u8) -> Vec<u8> {
        let mut bytes = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(label.len().try_into().unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, kind, 0, 1]);
        bytes
    }

    #[test]
    fn a_service_has_its_port_and_other_domains_are_others_business() {
        let zone = Zone { domain: "mail.example".into(), services: vec![("_imaps._tcp.mail.example".into(), 0x1234)] };
        let answer = zone.answer(&question("_IMAPS._tcp.mail.example", 33)).unwrap();
        assert_eq!(answer[..8], [7, 8, 0x85, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(b"\x12\x34\x04mail\x09localhost\x00"), "{answer:?}");
        for (name, kind, code) in
            [("_imaps._tcp.mail.example", 1, 0), ("mail.example", 15, 0), ("x.mail.example", 33, 3)]
        {
            let answer = zone.answer(&question(name, kind)).unwrap();
            assert_eq!((answer[3] & 15, answer[7]), (code, 0), "{name}");
        }
        assert_eq!(zone.answer(&question("example.com", 33)), None);
        assert_eq!(zone.answer(&question("othermail.example", 33)), None);
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let zone = Zone { domain: "mail.example".into(), services: Vec::new() };
        let whole = question("mail.example", 1);
        for length in 0..whole.len() {
            assert_eq!(zone.answer(&whole[..length]), None, "{length}");
        }
    }
}

//! An SMTP server that takes every message and sends none on: where the mail server's submissions end.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;

/// RFC 5321 has 1,000 bytes; real messages have longer ones.
const LINE_LIMIT: u64 = 1024 * 1024;
/// More than any server here lets through, so that a test that goes wrong does not take all memory.
const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The envelope's sender, empty for a bounce.
    pub sender: String,
    /// The envelope's recipients that were accepted, in the order of the commands.
    pub recipients: Vec<String>,
    /// The message's bytes, as they were before dots were doubled.
    pub message: Vec<u8>,
}

/// A running sink, which ends with this value.
#[derive(Debug)]
pub struct SmtpSink {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: AtomicBool,
    deliveries: Mutex<Vec<Delivery>>,
    refusals: Mutex<HashMap<String, String>>,
}

impl SmtpSink {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is none.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let sink = Self { port: listener.local_addr()?.port(), state: Arc::default() };
        let state = sink.state.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept()
                && !state.closed.load(Ordering::SeqCst)
            {
                let state = state.clone();
                // A client that breaks off has nobody to be told.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Ok(sink)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All messages so far, in the order in which they came. One is here before its client learns that it was taken.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries_after(0)
    }

    /// Those after the first so many.
    pub fn deliveries_after(&self, count: usize) -> Vec<Delivery> {
        lock(&self.state.deliveries).get(count..).unwrap_or_default().to_vec()
    }

    /// From now on answers each naming of the recipient with `reply`, such as `550 5.1.1 Nobody here`.
    pub fn refuse(&self, recipient: &str, reply: &str) {
        lock(&self.state.refusals).insert(recipient.to_owned(), reply.to_owned());
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        // Wakes the listener; if that is gone already, all is well.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let (mut sender, mut recipients) = (None, Vec::new());
    writer.write_all(b"220 localhost ESMTP sink\r\n")?;
    while let Some(line) = read_line(&mut reader)? {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => "250-localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n\
                       250 SIZE 67108864"
                .to_owned(),
            "MAIL" => {
                (sender, recipients) = (Some(path(&line)), Vec::new());
                "250 2.1.0 OK".to_owned()
            }
            "RCPT" if sender.is_none() => "503 5.5.1 MAIL first".to_owned(),
            "RCPT" => match lock(&state.refusals).get(&path(&line)) {
                Some(refusal) => refusal.clone(),
                None => {
                    recipients.push(path(&line));
                    "250 2.1.5 OK".to_owned()
                }
            },
            "DATA" if recipients.is_empty() => "503 5.5.1 RCPT first".to_owned(),
            "DATA" => {
                writer.write_all(b"354 Go ahead\r\n")?;
                let message = read_message(&mut reader)?;
                let sender = sender.take().unwrap_or_default();
                let recipients = std::mem::take(&mut recipients);
                lock(&state.deliveries).push(Delivery { sender, recipients, message });
                "250 2.0.0 Taken".to_owned()
            }
            "HELO" | "NOOP" => "250 2.0.0 OK".to_owned(),
            "RSET" => {
                (sender, recipients) = (None, Vec::new());
                "250 2.0.0 OK".to_owned()
            }
            "QUIT" => {
                writer.write_all(b"221 2.0.0 Bye\r\n")?;
                return Ok(());
            }
            _ => "502 5.5.2 Not here".to_owned(),
        };
        writer.write_all(format!("{reply}\r\n").as_bytes())?;
    }
    Ok(())
}

/// The address of `MAIL FROM:<address> …` or `RCPT TO:<address> …`.
fn path(line: &str) -> String {
    let address = line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>'));
    address.map_or("", |(address, _)| address).to_owned()
}

/// The next line with its end; nothing at the end of the connection.
fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(ErrorKind::InvalidData.into()),
    }
}

fn read_message(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(ErrorKind::UnexpectedEof)?;
        if line == b".\r\n" {
            return Ok(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        if message.len() > MESSAGE_LIMIT {
            return Err(ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_kept_as_it_was_sent_with_its_envelope() -> Result<()> {
        let sink = SmtpSink::start()?;
        sink.refuse("nobody@example.com", "550 5.1.1 Nobody here");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sink.port()))?;
        let commands = "EHLO x\r\nMAIL FROM:<jane@example.com> SIZE=9\r\nRCPT TO:<john@example.com>\r\n\
                        RCPT TO:<nobody@example.com>\r\nDATA\r\n..a\r\n\r\n.b\r\n.\r\nQUIT\r\n";
        stream.write_all(commands.as_bytes())?;
        let mut replies = String::new();
        stream.read_to_string(&mut replies)?;
        let codes: Vec<_> = replies.lines().filter_map(|line| line.split_once(' ')).map(|(code, _)| code).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "550", "354", "250", "221"], "{replies}");
        let expected = Delivery {
            sender: "jane@example.com".to_owned(),
            recipients: vec!["john@example.com".to_owned()],
            message: b".a\r\n\r\nb\r\n".to_vec(),
        };
        assert_eq!(sink.deliveries(), [expected]);
        Ok(())
    }
}

//! A TCP proxy that counts round trips, and can do to connections what networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::lasting;

/// What becomes of the connections that there are; new ones are well.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    /// Nothing is passed on any more, and nobody is told.
    Silence,
    /// Reset at once.
    Reset,
    /// Silence, and a reset once the client sends something: so does a router that has forgotten them.
    ResetOnUse,
}

/// Stands between the functions and a server.
pub struct Proxy {
    pub address: SocketAddr,
    trips: Arc<AtomicU32>,
    fate: watch::Sender<Fate>,
}

impl Proxy {
    pub async fn to_port(port: u16) -> Self {
        let trips = Arc::new(AtomicU32::new(0));
        let counted = trips.clone();
        let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
        let address = listener.local_addr().unwrap();
        let fate = watch::Sender::new(Fate::Silence);
        let fates = fate.clone();
        lasting(async move {
            drop(tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::spawn(connect(client, server, counted.clone(), fates.subscribe()));
                }
            }));
        })
        .await;
        Self { address, trips, fate }
    }

    /// Round trips since the last call.
    pub fn take_trips(&self) -> u32 {
        self.trips.swap(0, Ordering::SeqCst)
    }

    /// Does this to the connections that there are, and returns when it is done. None may be made meanwhile.
    pub async fn strike(&self, fate: Fate) {
        self.fate.send_replace(fate);
        self.fate.closed().await;
    }

    /// That URL of a server, but through here.
    pub fn url(&self, url: &str, port: u16) -> String {
        url.replace(&format!(":{port}"), &format!(":{}", self.address.port()))
    }
}

async fn connect(
    mut client: TcpStream,
    mut server: TcpStream,
    trips: Arc<AtomicU32>,
    mut fates: watch::Receiver<Fate>,
) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let asking = AtomicBool::new(false);
    {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let passing = async {
            tokio::join!(
                pass(from_client, to_server, &asking, true, &trips),
                pass(from_server, to_client, &asking, false, &trips)
            )
        };
        tokio::select! {
            _ = passing => return,
            struck = fates.changed() => struck.unwrap(),
        }
    }
    client.set_zero_linger().unwrap();
    let fate = *fates.borrow();
    // Who strikes waits until the last of these is dropped.
    match fate {
        Fate::Silence => {
            drop(fates);
            std::future::pending().await
        }
        Fate::Reset => drop((client, fates)),
        Fate::ResetOnUse => {
            drop(fates);
            client.peek(&mut [0]).await.unwrap();
        }
    }
}

/// A round trip begins when the client sends something after the server has: however many packets that takes.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    asking: &AtomicBool,
    is_client: bool,
    trips: &AtomicU32,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if asking.swap(is_client, Ordering::SeqCst) != is_client && is_client {
            trips.fetch_add(1, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

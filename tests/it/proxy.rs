//! A TCP proxy that counts round trips.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::lasting;

/// Stands between the functions and a server.
pub struct Proxy {
    pub address: SocketAddr,
    trips: Arc<AtomicU32>,
}

impl Proxy {
    pub async fn to_port(port: u16) -> Self {
        let trips = Arc::new(AtomicU32::new(0));
        let counted = trips.clone();
        let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
        let address = listener.local_addr().unwrap();
        lasting(async move {
            drop(tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    client.set_nodelay(true).unwrap();
                    server.set_nodelay(true).unwrap();
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    let asking = Arc::new(AtomicBool::new(false));
                    tokio::spawn(pass(from_client, to_server, asking.clone(), true, counted.clone()));
                    tokio::spawn(pass(from_server, to_client, asking, false, counted.clone()));
                }
            }));
        })
        .await;
        Self { address, trips }
    }

    /// Round trips since the last call.
    pub fn take_trips(&self) -> u32 {
        self.trips.swap(0, Ordering::SeqCst)
    }
}

/// A round trip begins when the client sends something after the server has: however many packets that takes.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    asking: Arc<AtomicBool>,
    is_client: bool,
    trips: Arc<AtomicU32>,
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

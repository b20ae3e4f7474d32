//! Names and what they stand for.

use std::net::{IpAddr, SocketAddr};

/// Asks name servers.
#[derive(Debug, Clone)]
pub struct Resolver;

/// No answer, or one that says no.
#[derive(Debug)]
pub struct DnsError(String);

impl std::fmt::Display for DnsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Resolver {
    /// Those of /etc/resolv.conf where none is given.
    pub fn new(_name_servers: &[SocketAddr]) -> Self {
        Self
    }

    /// The addresses of a host.
    ///
    /// # Errors
    /// It has none.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| DnsError(error.to_string()))?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

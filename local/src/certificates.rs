//! Certificates for servers of this machine: good ones, and those that a client must refuse.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A certificate authority of our own, whose key lives as long as the value.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a server presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// For `localhost`, `mail.localhost`, 127.0.0.1 and `::1`, by the authority.
    Good,
    /// As the good one, but its time ended in 2001.
    Expired,
    /// By the authority, for another host.
    OtherName,
    /// As the good one, by an authority that nobody knows.
    OtherAuthority,
}

/// A certificate with its key, both in PEM.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes a key and signs itself.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new() -> Result<Self> {
        Self::with_name("email_service's local authority")
    }

    fn with_name(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), pem })
    }

    /// Its own certificate in PEM, for clients to trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn issue(&self, certificate: Certificate) -> Result<Issued> {
        if certificate == Certificate::OtherAuthority {
            return Self::with_name("an authority that nobody knows")?.issue(Certificate::Good);
        }
        let names: &[&str] = match certificate {
            Certificate::OtherName => &["mail.example.com"],
            _ => &["localhost", "mail.localhost", "127.0.0.1", "::1"],
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names)?;
        parameters.distinguished_name.push(DnType::CommonName, "localhost");
        if certificate == Certificate::Expired {
            parameters.not_before = date_time_ymd(2000, 1, 1);
            parameters.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate()?;
        let signed = parameters.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: signed.pem(), key: key.serialize_pem() })
    }
}

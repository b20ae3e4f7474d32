//! Names: addresses, services (SRV) and mail exchanges (MX), asked of the system's name servers or of given ones.

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// What a name server has to answer one attempt. Those of a cloud's own network need milliseconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Attempts after the first: a datagram may be lost.
const RETRIES: usize = 1;
/// A whole lookup, all name servers and attempts together; below what connecting may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(3_500);
/// Of each type: a mail host has a handful, and each may cost the caller an attempt to connect.
const MAX_ANSWERS: usize = 16;
/// Answers kept in memory, by name and type.
const CACHED_ANSWERS: u64 = 256;
/// A move to another address is seen after this time at the latest, whatever the answer's time to live says.
const MAX_CACHE_TIME: Duration = Duration::from_secs(5 * 60);
/// Shorter: who has just added a record tries again soon.
const MAX_NEGATIVE_CACHE_TIME: Duration = Duration::from_secs(30);

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Far more than any such file has.
const MAX_RESOLV_CONF: u64 = 64 * 1024;
/// As many as the C library reads (MAXNS).
const MAX_NAME_SERVERS: usize = 3;
const DNS_PORT: u16 = 53;

/// Asks name servers. Cheap to clone; clones share one cache.
///
/// Names are always absolute: the search list of resolv.conf would turn a typing mistake into a host of the
/// operator's own network. `/etc/hosts` is not read, for the same reason.
#[derive(Clone)]
pub struct Resolver {
    /// `None` when the library could not be set up: every lookup then fails.
    inner: Option<TokioResolver>,
    limits: Limits,
}

/// How long to wait for an answer.
#[derive(Clone, Copy)]
struct Limits {
    attempt: Duration,
    lookup: Duration,
}

/// A place where a service is offered: one SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Among equals: the share of clients that it wants.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, in lower case and as A-labels. `None` for the root: the domain decidedly does not offer the service.
    pub target: Option<String>,
}

/// A host that accepts mail for a domain: one MX record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exchange {
    /// Lower ones are tried first.
    pub preference: u16,
    /// The host, in lower case and as A-labels.
    pub host: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// What was asked for cannot be the name of a host.
    #[error("not a name")]
    InvalidName,
    /// There is no such name, or it has no such record.
    #[error("no such name or record")]
    NotFound,
    /// No name server gave an answer. With what the library says, for a log.
    #[error("no answer from a name server: {0}")]
    Failed(String),
}

impl Resolver {
    /// Asks the given name servers, over UDP and, where an answer does not fit, TCP; without any, those of
    /// `/etc/resolv.conf`, read now.
    pub fn new(name_servers: &[SocketAddr]) -> Self {
        Self::with_limits(name_servers, Limits { attempt: ATTEMPT_TIMEOUT, lookup: LOOKUP_TIMEOUT })
    }

    fn with_limits(name_servers: &[SocketAddr], limits: Limits) -> Self {
        let addresses = if name_servers.is_empty() { system_name_servers() } else { name_servers.to_vec() };
        let servers = addresses.iter().map(|address| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Self { inner: builder.with_options(options(limits)).build().ok(), limits }
    }

    /// The addresses of a host, IPv4 before IPv6, at most 16 of each. A literal address is its own answer, without
    /// asking; `localhost` and what is below it are this machine (RFC 6761). Never empty.
    ///
    /// # Errors
    /// `host` is no name, has no address, or no name server answers.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        if let Ok(literal) = host.parse() {
            return Ok(vec![literal]);
        }
        let host = ascii_name(host).ok_or(DnsError::InvalidName)?;
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let (v4, v6) = tokio::join!(self.records(&host, RecordType::A), self.records(&host, RecordType::AAAA));
        // One family that fails must not hide the other: some name servers never answer for AAAA.
        let answers = match (v4, v6) {
            (Ok(mut v4), Ok(v6)) => {
                v4.extend(v6);
                v4
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => one,
            (Err(failed @ DnsError::Failed(_)), Err(_)) | (Err(_), Err(failed)) => return Err(failed),
        };
        let addresses: Vec<_> = answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        if addresses.is_empty() { Err(DnsError::NotFound) } else { Ok(addresses) }
    }

    /// Where a service is offered, as in `_imaps._tcp.example.com`, best first; at most 16, never empty. Of equal
    /// priority the greater weight comes first: whoever asks twice is told the same.
    ///
    /// # Errors
    /// `name` is no name, has no such record, or no name server answers.
    pub async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        let records = self.records(name, RecordType::SRV).await?;
        let mut services: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) if srv.target.is_root() => Some((srv, None)),
                RData::SRV(srv) => Some((srv, Some(host_of(&srv.target)?))),
                _ => None,
            })
            .map(|(srv, target)| Service { priority: srv.priority, weight: srv.weight, port: srv.port, target })
            .collect();
        services.sort_by(|a, b| (a.priority, b.weight, a).cmp(&(b.priority, a.weight, b)));
        if services.is_empty() { Err(DnsError::NotFound) } else { Ok(services) }
    }

    /// The hosts that accept mail for `domain`, best first; at most 16, never empty.
    ///
    /// # Errors
    /// `domain` is no name, has no such record or says that it accepts no mail (RFC 7505), or no name server answers.
    pub async fn exchanges(&self, domain: &str) -> Result<Vec<Exchange>, DnsError> {
        let records = self.records(domain, RecordType::MX).await?;
        let mut exchanges: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.data {
                RData::MX(mx) => Some(Exchange { preference: mx.preference, host: host_of(&mx.exchange)? }),
                _ => None,
            })
            .collect();
        exchanges.sort();
        if exchanges.is_empty() { Err(DnsError::NotFound) } else { Ok(exchanges) }
    }

    /// The records of one type; those of the aliases on the way are left out.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, DnsError> {
        // The library reads a backslash as an escape.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(DnsError::InvalidName);
        }
        let mut name = Name::from_ascii(name).map_err(|_| DnsError::InvalidName)?;
        name.set_fqdn(true);
        let inner = self.inner.as_ref().ok_or_else(|| DnsError::Failed("the resolver could not be set up".into()))?;
        match tokio::time::timeout(self.limits.lookup, inner.lookup(name, kind)).await {
            Ok(Ok(lookup)) => {
                let answers = lookup.answers().iter().filter(|record| record.record_type() == kind);
                Ok(answers.take(MAX_ANSWERS).cloned().collect())
            }
            Ok(Err(error)) if error.is_no_records_found() => Err(DnsError::NotFound),
            Ok(Err(error)) => Err(DnsError::Failed(error.to_string())),
            Err(_) => Err(DnsError::Failed(NetError::Timeout.to_string())),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// A host's or a domain's name as it is looked up, verified and compared: A-labels (RFC 5891) in lower case, without
/// the root's dot. `None` when it cannot be one.
pub fn ascii_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    // Two hyphens in the third place occur in names that are in use, and are no fault in any but an A-label.
    let ascii = Uts46::new().to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify);
    ascii.ok().map(|name| name.into_owned())
}

/// As [`ascii_name`], for a host of the public internet: `None` also for an address, and for a name of one label, which
/// would be a host of the reader's own network.
pub fn host_name(name: &str) -> Option<String> {
    ascii_name(name).filter(|name| name.contains('.') && name.parse::<IpAddr>().is_err())
}

fn options(limits: Limits) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = limits.attempt;
    options.attempts = RETRIES;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.cache_size = CACHED_ANSWERS;
    options.positive_max_ttl = Some(MAX_CACHE_TIME);
    options.negative_max_ttl = Some(MAX_NEGATIVE_CACHE_TIME);
    options
}

fn system_name_servers() -> Vec<SocketAddr> {
    let mut text = String::new();
    let read = std::fs::File::open(RESOLV_CONF).and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text));
    let servers = if read.is_ok() { parse_name_servers(&text) } else { Vec::new() };
    // resolv.conf(5): without an entry, the one of this machine.
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, DNS_PORT).into()] } else { servers }
}

/// The name servers of a resolv.conf. An address with a scope (`fe80::1%eth0`) is passed over: the library takes none.
fn parse_name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    addresses.take(MAX_NAME_SERVERS).map(|address| (address, DNS_PORT).into()).collect()
}

/// `None` for the root and for what is no host's name: an answer may have any bytes in it.
fn host_of(name: &Name) -> Option<String> {
    ascii_name(&name.to_ascii())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::testing::{NameServer, Zone};
    use super::{DnsError, Exchange, Limits, Resolver, Service, ascii_name, host_name, parse_name_servers};

    /// For servers that never answer. The lookup's limit is none here: the attempts are to end it.
    const IMPATIENT: Limits = Limits { attempt: Duration::from_millis(200), lookup: Duration::from_secs(60) };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service { priority, weight, port, target: Some(target.to_owned()) }
    }

    #[tokio::test]
    async fn addresses_come_from_both_families() {
        let zone = Zone::new().a("mail.example.com", "192.0.2.1").a("mail.example.com", "192.0.2.2");
        let zone = zone.aaaa("mail.example.com", "2001:db8::1").aaaa("six.example.com", "2001:db8::6");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        let both = resolver.addresses("mail.example.com").await.unwrap();
        assert_eq!(both, [ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]);
        assert_eq!(resolver.addresses("Mail.Example.COM.").await.unwrap(), both);
        assert_eq!(resolver.addresses("six.example.com").await.unwrap(), [ip("2001:db8::6")]);
        assert_eq!(resolver.addresses("none.example.com").await, Err(DnsError::NotFound));
    }

    #[tokio::test]
    async fn a_family_that_is_never_answered_does_not_hide_the_other() {
        let zone = Zone::new().a("mail.example.com", "192.0.2.1").silent("mail.example.com", "AAAA");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::with_limits(&[server.address()], IMPATIENT);
        assert_eq!(resolver.addresses("mail.example.com").await.unwrap(), [ip("192.0.2.1")]);
    }

    #[tokio::test]
    async fn literals_and_localhost_are_not_asked_for() {
        let server = NameServer::start(Zone::new()).await;
        let resolver = Resolver::new(&[server.address()]);
        for literal in ["192.0.2.7", "127.0.0.1", "::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            assert_eq!(resolver.addresses(literal).await.unwrap(), [ip(literal)]);
        }
        for local in ["localhost", "LOCALHOST.", "mail.localhost"] {
            assert_eq!(resolver.addresses(local).await.unwrap(), [ip("127.0.0.1"), ip("::1")], "{local}");
        }
        assert_eq!(server.questions(), Vec::<String>::new());
    }

    /// Other spellings of an address, which `inet_aton` reads, are names that do not exist.
    #[tokio::test]
    async fn only_usual_literals_are_addresses() {
        let server = NameServer::start(Zone::new()).await;
        let resolver = Resolver::new(&[server.address()]);
        for name in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"] {
            assert_eq!(resolver.addresses(name).await, Err(DnsError::NotFound), "{name}");
        }
        for name in ["", ".", "a b", "a..b", "-a.example", "a_b.example", "[::1]", "a\\.b", "a/b", &"a.".repeat(200)] {
            assert_eq!(resolver.addresses(name).await, Err(DnsError::InvalidName), "{name}");
        }
    }

    #[tokio::test]
    async fn names_are_absolute_and_in_a_labels() {
        let zone = Zone::new().a("xn--mller-kva.example", "192.0.2.3");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        assert_eq!(resolver.addresses("Müller.example").await.unwrap(), [ip("192.0.2.3")]);
        resolver.addresses("intranet").await.unwrap_err();
        let mut questions = server.questions();
        questions.sort();
        let expected = ["intranet A", "intranet AAAA", "xn--mller-kva.example A", "xn--mller-kva.example AAAA"];
        assert_eq!(questions, expected);
    }

    #[tokio::test]
    async fn services_are_in_order_and_a_root_means_not_offered() {
        let zone = Zone::new()
            .srv("_imaps._tcp.example.com", 20, 0, 993, "backup.example.com")
            .srv("_imaps._tcp.example.com", 10, 1, 993, "Small.example.com")
            .srv("_imaps._tcp.example.com", 10, 9, 993, "big.example.com")
            .srv("_imap._tcp.example.com", 0, 0, 0, ".");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        let expected = [
            service(10, 9, 993, "big.example.com"),
            service(10, 1, 993, "small.example.com"),
            service(20, 0, 993, "backup.example.com"),
        ];
        assert_eq!(resolver.services("_imaps._tcp.example.com").await.unwrap(), expected);
        let none = Service { priority: 0, weight: 0, port: 0, target: None };
        assert_eq!(resolver.services("_imap._tcp.example.com").await.unwrap(), [none]);
        assert_eq!(resolver.services("_pop3._tcp.example.com").await, Err(DnsError::NotFound));
    }

    #[tokio::test]
    async fn exchanges_are_in_order_and_a_null_one_is_none() {
        let zone = Zone::new().mx("example.com", 20, "b.example.net").mx("example.com", 10, "a.example.net").mx(
            "silent.example",
            0,
            ".",
        );
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        let exchange = |preference, host: &str| Exchange { preference, host: host.to_owned() };
        let expected = [exchange(10, "a.example.net"), exchange(20, "b.example.net")];
        assert_eq!(resolver.exchanges("example.com").await.unwrap(), expected);
        assert_eq!(resolver.exchanges("silent.example").await, Err(DnsError::NotFound));
    }

    #[tokio::test]
    async fn answers_are_bounded() {
        let many = (0..100).fold(Zone::new(), |zone, n| zone.a("many.example", &format!("192.0.2.{n}")));
        let server = NameServer::start(many).await;
        let resolver = Resolver::new(&[server.address()]);
        assert_eq!(resolver.addresses("many.example").await.unwrap().len(), super::MAX_ANSWERS);
    }

    #[tokio::test]
    async fn an_alias_is_followed_and_a_circle_of_them_ends() {
        let zone = Zone::new()
            .cname("mail.example.com", "host.example.net")
            .a("host.example.net", "192.0.2.4")
            .cname("one.example", "two.example")
            .cname("two.example", "one.example");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        assert_eq!(resolver.addresses("mail.example.com").await.unwrap(), [ip("192.0.2.4")]);
        resolver.addresses("one.example").await.unwrap_err();
    }

    #[tokio::test]
    async fn an_answer_may_change_from_one_question_to_the_next() {
        let zone = Zone::new().a("rebind.example", "192.0.2.1").then().a("rebind.example", "127.0.0.1");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::new(&[server.address()]);
        assert_eq!(resolver.addresses("rebind.example").await.unwrap(), [ip("192.0.2.1")]);
        assert_eq!(resolver.addresses("rebind.example").await.unwrap(), [ip("127.0.0.1")]);
        assert_eq!(resolver.addresses("rebind.example").await.unwrap(), [ip("127.0.0.1")]);
    }

    #[tokio::test]
    async fn a_name_server_that_refuses_or_is_silent_is_no_answer() {
        let zone = Zone::new().failing("broken.example").silent("silent.example", "MX");
        let server = NameServer::start(zone).await;
        let resolver = Resolver::with_limits(&[server.address()], IMPATIENT);
        assert!(matches!(resolver.addresses("broken.example").await, Err(DnsError::Failed(_))));
        assert!(matches!(resolver.exchanges("silent.example").await, Err(DnsError::Failed(_))));
        // Asked once more, then no more.
        let questions = server.questions();
        assert_eq!(questions.iter().filter(|question| **question == "silent.example MX").count(), 1 + super::RETRIES);
    }

    #[test]
    fn names_become_a_labels_or_nothing() {
        let cases = [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("bücher.example", Some("xn--bcher-kva.example")),
            ("почта.рф", Some("xn--80a1acny.xn--p1ai")),
            ("faß.example", Some("xn--fa-hia.example")),
            ("r3---sn.example", Some("r3---sn.example")),
            ("xn--a.example", None),
            ("", None),
            (".", None),
            ("a..b", None),
            ("a b.example", None),
            ("a%2e.example", None),
            ("a@b.example", None),
            ("a:25", None),
            ("a\r\nb", None),
            ("a\0b", None),
        ];
        for (name, expected) in cases {
            assert_eq!(ascii_name(name).as_deref(), expected, "{name:?}");
        }
        for (name, expected) in [("Mail.example", Some("mail.example")), ("localhost", None), ("127.0.0.1", None)] {
            assert_eq!(host_name(name).as_deref(), expected, "{name}");
        }
        assert_eq!(ascii_name(&format!("{}.example", "a".repeat(64))), None);
        assert_eq!(ascii_name(&vec!["a".repeat(63); 4].join(".")), None);
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\nsearch corp.example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \n\
                    nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\nnameserver 192.0.2.3\n\
                    nameserver 192.0.2.4\noptions timeout:1";
        let found: Vec<_> = parse_name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]);
    }
}

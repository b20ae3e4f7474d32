//! Mozilla's `config-v1.1.xml`: what a domain or the ISP database says about its mail servers.
//!
//! The format is described at <https://wiki.mozilla.org/Thunderbird:Autoconfiguration:ConfigFileFormat> and in
//! draft-ietf-mailmaint-autoconfig. What is read here was written by whoever holds the domain.

use std::fmt;

use roxmltree::{Document, Node, ParsingOptions};

use super::config::{ADDRESS, Config, DOMAIN, LOCAL_PART, Offer, expand};
use crate::connect::Security;
use crate::dns::host_name;
use crate::login::{Protocol, Server};

/// What a file may have at most; the largest in Mozilla's database has 8 KiB.
pub const MAX_BYTES: usize = 64 * 1024;
/// Elements, texts and comments; the largest file in Mozilla's database has 500.
const MAX_NODES: u32 = 4096;
/// The format has none. The parser copies those in force for each element that declares another: some thousands in a
/// small file keep it busy for seconds.
const MAX_NAMESPACES: usize = 16;
/// Of each direction; files have up to four.
const MAX_OFFERS: usize = 8;
/// An address has 254 at most (RFC 5321); a user name is that or shorter.
const MAX_USERNAME: usize = 256;

/// Why a file is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It is something else: another XML, a web page, none of both, or too large.
    NotAutoconfig,
    /// It names no server for reading mail, or none that could be used.
    NoServer,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAutoconfig => "is no autoconfig file",
            Self::NoServer => "names no server that can be used",
        })
    }
}

/// Reads the settings for addresses of `domain` (in A-labels). User names keep their placeholders.
///
/// What could not be used is left out: servers of other protocols, those without a usable name, port, encryption or
/// way to sign in, and what is more than eight of each direction.
///
/// # Errors
/// Nothing is left.
pub fn parse(xml: &[u8], domain: &str) -> Result<Config, Unusable> {
    if xml.len() > MAX_BYTES {
        return Err(Unusable::NotAutoconfig);
    }
    // Old files are in Latin-1. What may be lost by this is in descriptions, not in the names of hosts.
    let text = String::from_utf8_lossy(xml);
    if text.matches("xmlns").count() > MAX_NAMESPACES {
        return Err(Unusable::NotAutoconfig);
    }
    // No DTD: no entity can grow or fetch anything.
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim_start(), options).map_err(|_| Unusable::NotAutoconfig)?;
    let root = document.root_element();
    if root.tag_name().name() != "clientConfig" {
        return Err(Unusable::NotAutoconfig);
    }
    let provider = child(root, "emailProvider").ok_or(Unusable::NoServer)?;
    let incoming = offers(provider, "incomingServer", domain);
    if incoming.is_empty() {
        return Err(Unusable::NoServer);
    }
    Ok(Config { incoming, smtp: offers(provider, "outgoingServer", domain), ..Config::default() })
}

/// The usable servers of one direction, best first: IMAP before POP3, TLS from the first byte before STARTTLS before
/// none (RFC 8314), else in the order of the file.
fn offers(provider: Node<'_, '_>, tag: &str, domain: &str) -> Vec<Offer> {
    let mut offers = Vec::new();
    for node in provider.children().filter(|node| node.tag_name().name() == tag) {
        if let Some(offer) = offer(node, domain)
            && !offers.contains(&offer)
        {
            offers.push(offer);
        }
    }
    offers.sort_by_key(Offer::rank);
    offers.truncate(MAX_OFFERS);
    offers
}

fn offer(node: Node<'_, '_>, domain: &str) -> Option<Offer> {
    let protocol = match (node.tag_name().name(), node.attribute("type")?) {
        ("incomingServer", "imap") => Protocol::Imap,
        ("incomingServer", "pop3") => Protocol::Pop3,
        ("outgoingServer", "smtp") => Protocol::Smtp,
        _ => return None,
    };
    let security = match text(node, "socketType")? {
        "SSL" | "TLS" => Security::Tls,
        "STARTTLS" => Security::StartTls,
        "plain" => Security::Plain,
        _ => return None,
    };
    let port = text(node, "port")?.parse().ok().filter(|port| *port != 0)?;
    let host = host(text(node, "hostname")?, domain)?;
    can_sign_in(node).then(|| Offer {
        server: Server { protocol, host, port, security },
        username: username(text(node, "username").unwrap_or_default(), domain),
    })
}

/// A host's name. No address, and no name without a dot: both are of the reader's network, not of the domain's. One
/// that holds the user's name is none either: a name server is not to learn it.
fn host(text: &str, domain: &str) -> Option<String> {
    host_name(&expand(text, &[(DOMAIN, domain)]))
}

/// The user name's form. Without a form that we could fill in it is the address, which fits the most servers
/// (RFC 6186, section 4).
fn username(text: &str, domain: &str) -> String {
    let form = expand(text, &[(DOMAIN, domain)]);
    let rest = expand(&form, &[(ADDRESS, ""), (LOCAL_PART, "")]);
    let usable = !form.is_empty()
        && form.len() <= MAX_USERNAME
        && !rest.contains('%')
        && !form.chars().any(|character| character.is_control() || character.is_whitespace());
    if usable { form } else { ADDRESS.to_owned() }
}

/// Whether one of the ways to sign in is a password or a token. A file that names none means a password.
fn can_sign_in(node: Node<'_, '_>) -> bool {
    let mut ways = node.children().filter(|child| child.tag_name().name() == "authentication").peekable();
    ways.peek().is_none()
        || ways.any(|way| {
            // `plain` and `secure` are the former names of the first two. Servers that ask for an encrypted password
            // take a plain one as well, inside TLS.
            let known = ["password-cleartext", "password-encrypted", "plain", "secure", "OAuth2"];
            known.contains(&way.text().unwrap_or_default().trim())
        })
}

fn child<'a, 'input>(node: Node<'a, 'input>, tag: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.tag_name().name() == tag)
}

fn text<'a>(node: Node<'a, '_>, tag: &str) -> Option<&'a str> {
    child(node, tag)?.text().map(str::trim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MAX_BYTES, MAX_OFFERS, Unusable, parse};
    use crate::connect::Security;
    use crate::discover::{ADDRESS, Config, LOCAL_PART, Offer};
    use crate::dns::ascii_name;
    use crate::login::{Protocol, Server};

    const GMX: &str = include_str!("../../../fuzz/corpus/autoconfig/all");

    fn offer(protocol: Protocol, host: &str, port: u16, security: Security, username: &str) -> Offer {
        Offer { server: Server { protocol, host: host.to_owned(), port, security }, username: username.to_owned() }
    }

    /// A file with these servers.
    fn file(servers: &str) -> String {
        format!("<clientConfig version=\"1.1\"><emailProvider id=\"e\">{servers}</emailProvider></clientConfig>")
    }

    fn imap(inside: &str) -> String {
        file(&format!("<incomingServer type=\"imap\">{inside}</incomingServer>"))
    }

    const HOST: &str = "<hostname>imap.example.com</hostname>";
    const PORT: &str = "<port>993</port>";
    const SSL: &str = "<socketType>SSL</socketType>";

    fn config(xml: &str) -> Config {
        parse(xml.as_bytes(), "example.com").unwrap()
    }

    fn refusal(xml: &str) -> Unusable {
        parse(xml.as_bytes(), "example.com").unwrap_err()
    }

    #[test]
    fn a_whole_file_is_read_and_put_in_order() {
        let config = config(GMX);
        let expected = [
            offer(Protocol::Imap, "imap.example.com", 993, Security::Tls, ADDRESS),
            offer(Protocol::Imap, "imap.example.com", 143, Security::StartTls, LOCAL_PART),
            offer(Protocol::Pop3, "pop.example.com", 995, Security::Tls, "example.com\\%EMAILLOCALPART%"),
            offer(Protocol::Imap, "old.example.net", 143, Security::Plain, ADDRESS),
        ];
        assert_eq!(config.incoming, expected);
        let expected = [
            offer(Protocol::Smtp, "smtp.example.com", 465, Security::Tls, ADDRESS),
            offer(Protocol::Smtp, "smtp.example.com", 587, Security::StartTls, ADDRESS),
        ];
        assert_eq!(config.smtp, expected);
        assert_eq!((config.oauth2, config.app_password), (None, None));
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let good = format!("{HOST}{PORT}{SSL}");
        assert_eq!(config(&imap(&good)).incoming.len(), 1);
        for bad in [
            format!("{PORT}{SSL}"),
            format!("{HOST}{SSL}"),
            format!("{HOST}{PORT}"),
            format!("{HOST}<port>0</port>{SSL}"),
            format!("{HOST}<port>65536</port>{SSL}"),
            format!("{HOST}<port>-1</port>{SSL}"),
            format!("{HOST}<port>993x</port>{SSL}"),
            format!("{HOST}<port/>{SSL}"),
            format!("{HOST}{PORT}<socketType>ssl3</socketType>"),
            format!("<hostname/>{PORT}{SSL}"),
            format!("<hostname>localhost</hostname>{PORT}{SSL}"),
            format!("<hostname>127.0.0.1</hostname>{PORT}{SSL}"),
            format!("<hostname>::1</hostname>{PORT}{SSL}"),
            format!("<hostname>[::1]</hostname>{PORT}{SSL}"),
            format!("<hostname>a b.example</hostname>{PORT}{SSL}"),
            format!("<hostname>a.example:993</hostname>{PORT}{SSL}"),
            format!("<hostname>a.example/x</hostname>{PORT}{SSL}"),
            format!("<hostname>x@a.example</hostname>{PORT}{SSL}"),
            format!("<hostname>%EMAILLOCALPART%.example</hostname>{PORT}{SSL}"),
            format!("<hostname>{}.example</hostname>{PORT}{SSL}", "a".repeat(64)),
            format!("{good}<authentication>GSSAPI</authentication>"),
            format!("{good}<authentication>NTLM</authentication><authentication>none</authentication>"),
        ] {
            assert_eq!(refusal(&imap(&bad)), Unusable::NoServer, "{bad}");
        }
        for other in ["exchange", "IMAP", "smtp", ""] {
            let other = file(&format!("<incomingServer type=\"{other}\">{good}</incomingServer>"));
            assert_eq!(refusal(&other), Unusable::NoServer, "{other}");
        }
        assert_eq!(refusal(&file(&format!("<incomingServer>{good}</incomingServer>"))), Unusable::NoServer);
        assert_eq!(refusal(&file("")), Unusable::NoServer);
        // Sending alone is nothing to begin with.
        let smtp = file(&format!("<outgoingServer type=\"smtp\">{good}</outgoingServer>"));
        assert_eq!(refusal(&smtp), Unusable::NoServer);
    }

    #[test]
    fn any_of_the_ways_to_sign_in_is_enough() {
        for way in ["password-cleartext", "password-encrypted", "plain", "secure", " OAuth2\n"] {
            let ways = format!("<authentication>GSSAPI</authentication><authentication>{way}</authentication>");
            assert_eq!(config(&imap(&format!("{HOST}{PORT}{SSL}{ways}"))).incoming.len(), 1, "{way}");
        }
    }

    #[test]
    fn hosts_and_user_names_get_their_domain() {
        let cases = [
            ("", ADDRESS),
            ("%EMAILADDRESS%", ADDRESS),
            ("%EMAILLOCALPART%", LOCAL_PART),
            ("%EMAILLOCALPART%@%EMAILDOMAIN%", "%EMAILLOCALPART%@example.com"),
            ("box-%EMAILLOCALPART%", "box-%EMAILLOCALPART%"),
            ("shared", "shared"),
            // What has a form that we cannot fill in, or is no user name.
            ("%REALNAME%", ADDRESS),
            ("50%", ADDRESS),
            ("a b", ADDRESS),
            ("a\u{7f}b", ADDRESS),
        ];
        for (written, expected) in cases {
            let servers = format!("<hostname>Mail.%EMAILDOMAIN%.</hostname>{PORT}{SSL}<username>{written}</username>");
            let config = config(&imap(&servers));
            assert_eq!(config.incoming[0].username, expected, "{written:?}");
            assert_eq!(config.incoming[0].server.host, "mail.example.com");
        }
        let long = format!("{HOST}{PORT}{SSL}<username>{}</username>", "a".repeat(300));
        assert_eq!(config(&imap(&long)).incoming[0].username, ADDRESS);
    }

    #[test]
    fn international_names_become_a_labels() {
        let config = config(&imap(&format!("<hostname>imap.bücher.example</hostname>{PORT}{SSL}")));
        assert_eq!(config.incoming[0].server.host, "imap.xn--bcher-kva.example");
    }

    #[test]
    fn latin_1_spoils_descriptions_alone() {
        let mut xml = imap(&format!("{HOST}{PORT}{SSL}<x>?</x>")).into_bytes();
        let place = xml.iter().position(|byte| *byte == b'?').unwrap();
        xml[place] = 0xe4;
        assert_eq!(parse(&xml, "example.com").unwrap().incoming.len(), 1);
    }

    #[test]
    fn the_number_of_servers_is_bounded_and_none_comes_twice() {
        let server = |port: usize| {
            format!(
                "<incomingServer type=\"imap\">{HOST}<port>{port}</port><socketType>SSL</socketType></incomingServer>"
            )
        };
        let many = config(&file(&(1..=100).map(server).collect::<String>()));
        assert_eq!(many.incoming.len(), MAX_OFFERS);
        assert_eq!(config(&file(&server(993).repeat(5))).incoming.len(), 1);
    }

    #[test]
    fn pages_and_other_files_are_no_configuration() {
        for other in [
            "",
            " ",
            "404 not found",
            "<!DOCTYPE html><html><head><title>Parked</title></head><body>hello<br></body></html>",
            "<html><body>clientConfig</body></html>",
            "<?xml version=\"1.0\"?><autodiscover/>",
            "{\"clientConfig\": 1}",
            "<clientConfig>",
            "<clientConfig/><clientConfig/>",
            "\u{feff}",
            "\0\0\0",
        ] {
            assert_eq!(refusal(other), Unusable::NotAutoconfig, "{other}");
        }
        assert_eq!(refusal("<clientConfig/>"), Unusable::NoServer);
        assert_eq!(refusal("\u{feff}<?xml version=\"1.0\"?>\n<clientConfig/>"), Unusable::NoServer);
    }

    #[test]
    fn bombs_do_not_go_off() {
        let laughs = "<!DOCTYPE c [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">\
                      <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">]><clientConfig>&c;</clientConfig>";
        assert_eq!(refusal(laughs), Unusable::NotAutoconfig);
        let outside = "<!DOCTYPE c [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><clientConfig>&a;</clientConfig>";
        assert_eq!(refusal(outside), Unusable::NotAutoconfig);
        // Too many nodes, side by side and inside each other.
        let wide = format!("<clientConfig>{}</clientConfig>", "<a/>".repeat(10_000));
        assert_eq!(refusal(&wide), Unusable::NotAutoconfig);
        assert_eq!(refusal(&"<clientConfig>".repeat(4_000)), Unusable::NotAutoconfig);
        let deep = format!("{}{}", "<a>".repeat(8_000), "</a>".repeat(8_000));
        assert_eq!(refusal(&deep), Unusable::NotAutoconfig);
        let outer: String = (0..1500).map(|n| format!(" xmlns:a{n}='{n}'")).collect();
        let inner: String = (0..1500).map(|n| format!("<b xmlns:b='{n}'/>")).collect();
        assert_eq!(refusal(&format!("<clientConfig{outer}>{inner}</clientConfig>")), Unusable::NotAutoconfig);
        let few = "<clientConfig xmlns='urn:a' xmlns:b='urn:b'><b:emailProvider/></clientConfig>";
        assert_eq!(refusal(few), Unusable::NoServer);
        let large = format!("<clientConfig>{}</clientConfig>", " ".repeat(MAX_BYTES));
        assert_eq!(refusal(&large), Unusable::NotAutoconfig);
    }

    proptest! {
        /// Whatever is in the fields, an offer is one that can be used and shown.
        #[test]
        fn offers_are_usable(host in "\\PC{0,20}|[a-z.%A-Z]{1,40}", port in "\\PC{0,6}|[0-9]{1,5}", name in "\\PC{0,40}") {
            let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
            let inside = format!(
                "<hostname>{}</hostname><port>{}</port>{SSL}<username>{}</username>",
                escape(&host), escape(&port), escape(&name)
            );
            if let Ok(config) = parse(imap(&inside).as_bytes(), "example.com") {
                for offer in config.incoming {
                    prop_assert_eq!(ascii_name(&offer.server.host), Some(offer.server.host.clone()));
                    prop_assert!(offer.server.port > 0 && !offer.username.is_empty());
                    prop_assert!(!offer.username.chars().any(char::is_control));
                }
            }
        }

        /// Any bytes are an answer or none.
        #[test]
        fn bytes_never_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse(&bytes, "example.com").is_err());
        }
    }
}

//! What web pages must not do: any of them can make the developer's browser send requests to this machine.
//!
//! Under a name of its own that it points at 127.0.0.1 (DNS rebinding) a page could also read the answers, and Lambda's
//! own API would take a plain form from it, which a browser sends without asking.

use std::net::IpAddr;

use hyper::{
    header::{HOST, HeaderValue, ORIGIN},
    http::request::Parts,
};

/// A host's name or address, the latter in brackets if it is one of IPv6, and its port.
pub(super) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether the request names this machine, or nobody: a browser always says which name it went by.
pub(crate) fn is_addressed_to_us(head: &Parts, listener: IpAddr) -> bool {
    let is_local = |host: &str| {
        let name = split_port(host).0.to_ascii_lowercase();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
        match bare.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == listener,
            // Names below it are loopback, too: RFC 6761, 6.3.
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        }
    };
    let mut hosts = head.headers.get_all(HOST).iter().map(HeaderValue::to_str);
    hosts.all(|host| host.is_ok_and(is_local)) && head.uri.authority().is_none_or(|host| is_local(host.as_str()))
}

/// Whether a page that is not the gateway's own sent the request. Programs send no `Origin`.
pub(crate) fn is_from_another_origin(head: &Parts) -> bool {
    let own = head.headers.get(HOST).map(|host| [b"http://", host.as_bytes()].concat());
    head.headers.get_all(ORIGIN).iter().any(|origin| own.as_deref() != Some(origin.as_bytes()))
}

/// Whether a browser sent the request, for whatever page: nothing else says from where it asks.
pub(super) fn is_from_a_browser(head: &Parts) -> bool {
    head.headers.contains_key(ORIGIN) || head.headers.contains_key("sec-fetch-site")
}

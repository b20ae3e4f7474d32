//! Which addresses are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses that share a prefix (CIDR, RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is in it. An IPv4 network has no IPv6 addresses, not even those that carry its own inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                shared_bits((network.to_bits() ^ address.to_bits()).leading_zeros(), self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                shared_bits((network.to_bits() ^ address.to_bits()).leading_zeros(), self.prefix)
            }
            _ => false,
        }
    }
}

const fn shared_bits(shared: u32, prefix: u8) -> bool {
    shared >= prefix as u32
}

impl FromStr for Network {
    type Err = &'static str;

    /// `10.1.0.0/16`, `fd00::/8`, or one address. Bits after the prefix are a slip of the pen and refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a network like 10.1.0.0/16 or fd00::/8, without bits after the prefix";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RULE)?;
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let prefix = prefix.map_or(Ok(width), |prefix| prefix.parse().map_err(|_| RULE))?;
        let rest = bits.checked_shl(u32::from(prefix)).unwrap_or(0);
        if prefix > width || rest != 0 { Err(RULE) } else { Ok(Self { address, prefix }) }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
    Network { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

const fn v6(segments: [u16; 8], prefix: u8) -> Network {
    Network { address: IpAddr::V6(Ipv6Addr::from_segments(segments)), prefix }
}

/// Where IPv6 has given out addresses so far (RFC 4291 section 2.4): all others, from loopback to multicast, from ULA
/// to those that carry IPv4 inside, are out without being named.
const GLOBAL_UNICAST: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is not public of the rest, and why: the IANA registries of special-purpose addresses, multicast, and what
/// became of the classes. Anycast services of the network itself are among them, since none of them takes mail.
const SPECIAL: [(Network, &str); 25] = [
    (v4(0, 0, 0, 0, 8), "this network, RFC 791"),
    (v4(10, 0, 0, 0, 8), "private, RFC 1918"),
    (v4(100, 64, 0, 0, 10), "shared with a carrier, RFC 6598"),
    (v4(127, 0, 0, 0, 8), "loopback, RFC 1122"),
    (v4(168, 63, 129, 16, 32), "Azure's services for a machine, inside a public range"),
    (v4(169, 254, 0, 0, 16), "link-local, RFC 3927; a platform's metadata, credentials, time and names"),
    (v4(172, 16, 0, 0, 12), "private, RFC 1918"),
    (v4(192, 0, 0, 0, 24), "IETF protocols, RFC 6890"),
    (v4(192, 0, 2, 0, 24), "documentation, RFC 5737"),
    (v4(192, 31, 196, 0, 24), "AS112, RFC 7535"),
    (v4(192, 52, 193, 0, 24), "AMT, RFC 7450"),
    (v4(192, 88, 99, 0, 24), "6to4 relays, RFC 7526"),
    (v4(192, 168, 0, 0, 16), "private, RFC 1918"),
    (v4(192, 175, 48, 0, 24), "AS112, RFC 7534"),
    (v4(198, 18, 0, 0, 15), "benchmarking, RFC 2544"),
    (v4(198, 51, 100, 0, 24), "documentation, RFC 5737"),
    (v4(203, 0, 113, 0, 24), "documentation, RFC 5737"),
    (v4(224, 0, 0, 0, 4), "multicast, RFC 5771"),
    (v4(240, 0, 0, 0, 4), "reserved, RFC 1112, or broadcast, RFC 919"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "IETF protocols, RFC 2928: Teredo, benchmarking, AMT, ORCHID"),
    (v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32), "documentation, RFC 3849"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4, RFC 3056"),
    (v6([0x2620, 0x004f, 0x8000, 0, 0, 0, 0, 0], 48), "AS112, RFC 7534"),
    (v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), "6bone, RFC 3701"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation, RFC 9637"),
];

/// Whether an address belongs to somebody on the internet. IPv4 inside IPv6 is not public, whatever it is: the packets
/// would go to an IPv4 address by way of a translator, and a mail host has a plain one as well.
pub fn is_public(address: IpAddr) -> bool {
    (address.is_ipv4() || GLOBAL_UNICAST.contains(address)) && !SPECIAL.iter().any(|(range, _)| range.contains(address))
}

/// What an address is that is not public, for a log.
pub(super) fn purpose(address: IpAddr) -> &'static str {
    SPECIAL
        .iter()
        .find(|(range, _)| range.contains(address))
        .map_or("not global unicast, RFC 4291", |(_, purpose)| purpose)
}

/// The IPv4 address that packets to this IPv6 address end at, by the well-known ways to put one inside: compatible and
/// mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380).
pub(super) fn embedded_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] if g != 0 => from(g, h),
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => from(g, h),
        [0x2002, high, low, ..] => from(high, low),
        [0x2001, 0, ..] => from(!g, !h),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn every_special_range_is_refused_to_its_edges_and_its_neighbours_are_not() {
        // First and last address; before and after it the nearest public ones, where there are any.
        for (before, first, last, after) in [
            ("", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
            ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
            ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
            ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
            ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
            ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
            ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
            ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
            ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
            ("192.31.195.255", "192.31.196.0", "192.31.196.255", "192.31.197.0"),
            ("192.52.192.255", "192.52.193.0", "192.52.193.255", "192.52.194.0"),
            ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
            ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
            ("192.175.47.255", "192.175.48.0", "192.175.48.255", "192.175.49.0"),
            ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
            ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
            ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
            ("223.255.255.255", "224.0.0.0", "239.255.255.255", ""),
            ("", "240.0.0.0", "255.255.255.255", ""),
            // All below 2000::/3: unspecified, loopback, IPv4 inside, NAT64, discard-only.
            ("", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
            (
                "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001::",
                "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:200::",
            ),
            (
                "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db9::",
            ),
            ("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2003::"),
            (
                "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff",
                "2620:4f:8000::",
                "2620:4f:8000:ffff:ffff:ffff:ffff:ffff",
                "2620:4f:8001::",
            ),
            ("3ffd:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
            ("", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"),
            // All above it: SRv6, ULA, link-local, site-local, multicast.
            ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ] {
            for address in [first, last] {
                assert!(!is_public(ip(address)), "{address}");
            }
            for address in [before, after].into_iter().filter(|address| !address.is_empty()) {
                assert!(is_public(ip(address)), "{address}");
            }
        }
    }

    #[test]
    fn addresses_with_a_purpose_are_refused_by_name() {
        for address in [
            "::1",
            "::",
            "::7f00:1",                             // compatible with 127.0.0.1
            "::ffff:127.0.0.1",                     // mapped
            "::ffff:8.8.8.8",                       // mapped, of a public one
            "::ffff:0:127.0.0.1",                   // translated, RFC 2765
            "64:ff9b::7f00:1",                      // NAT64 of 127.0.0.1
            "64:ff9b::808:808",                     // NAT64 of 8.8.8.8
            "64:ff9b:1::a00:1",                     // NAT64 of a network's own
            "100::1",                               // discard-only
            "100:0:0:1::1",                         // dummy prefix, RFC 9780
            "2001:0:4136:e378:8000:63bf:3fff:fdd2", // Teredo
            "2001:2::1",                            // benchmarking
            "2001:3::1",                            // AMT
            "2001:4:112::1",                        // AS112
            "2001:10::1",                           // ORCHID
            "2001:20::1",                           // ORCHIDv2
            "2001:30::1",                           // DRIP
            "2001:db8::1",
            "2002:7f00:1::1", // 6to4 of 127.0.0.1
            "3fff::1",
            "5f00::1", // SRv6
            "fc00::1",
            "fd00:ec2::254", // instance metadata, credentials and names of AWS
            "fd00:ec2::253",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "169.254.169.254",
            "169.254.170.2",
            "169.254.169.253",
            "168.63.129.16",
            "255.255.255.255",
        ] {
            assert!(!is_public(ip(address)), "{address}");
            assert!(!purpose(ip(address)).is_empty());
        }
        for address in ["8.8.8.8", "192.0.1.1", "2606:4700::1111", "2a00:1450:4001:82a::200e", "2400:cb00::1"] {
            assert!(is_public(ip(address)), "{address}");
        }
    }

    #[test]
    fn the_ipv4_address_inside_is_found() {
        for (address, inside) in [
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("::10.0.0.1", Some("10.0.0.1")),
            ("64:ff9b::a00:1", Some("10.0.0.1")),
            ("2002:a00:1::1", Some("10.0.0.1")),
            ("2001:0:4136:e378:8000:63bf:f5ff:fffe", Some("10.0.0.1")),
            ("::1", None),
            ("::", None),
            ("fd00::a00:1", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(embedded_ipv4(ip(address)).map(IpAddr::from), inside.map(ip), "{address}");
        }
    }

    #[test]
    fn networks_are_written_without_a_slip() {
        for text in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3/32", "0.0.0.0/0", "::/0", "fd00::/8", "::1", "fd00::1/128"] {
            text.parse::<Network>().unwrap();
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "fd00::/129",
            "fd00::1/8",
            "10/8",
            "localhost",
            "10.0.0.0/256",
            " 10.0.0.0/8",
            "0.0.0.0/33",
        ] {
            text.parse::<Network>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn a_network_has_the_addresses_that_begin_alike(bits: u128, other: u128, prefix in 0u8..=128) {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            let network: Network = format!("{}/{prefix}", Ipv6Addr::from_bits(bits & mask)).parse().unwrap();
            prop_assert!(network.contains(Ipv6Addr::from_bits(bits).into()));
            prop_assert!(network.contains(Ipv6Addr::from_bits(bits & mask | other & !mask).into()));
            prop_assert_eq!(network.contains(Ipv6Addr::from_bits(other).into()), other & mask == bits & mask);
            let (bits, other) = (bits as u32, other as u32);
            let prefix = prefix / 4;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network: Network = format!("{}/{prefix}", Ipv4Addr::from_bits(bits & mask)).parse().unwrap();
            prop_assert!(network.contains(Ipv4Addr::from_bits(bits & mask | other & !mask).into()));
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).into()), other & mask == bits & mask);
            prop_assert!(!network.contains(Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()));
        }
    }
}

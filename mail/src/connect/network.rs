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

/// Where IPv6 has given out addresses so far (RFC 4291 section 2.4): all others, from loopback to multicast, from ULA to
/// those that carry IPv4 inside, are out without being named.
const GLOBAL_UNICAST: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is not public of the rest: the IANA registries of special-purpose addresses, multicast, and what became of the
/// classes. Anycast services of the network itself are among them, since none of them takes mail.
const SPECIAL: [Network; 25] = [
    v4(0, 0, 0, 0, 8),                               // this network, RFC 791
    v4(10, 0, 0, 0, 8),                              // private, RFC 1918
    v4(100, 64, 0, 0, 10),                           // shared with a carrier, RFC 6598
    v4(127, 0, 0, 0, 8),                             // loopback, RFC 1122
    v4(168, 63, 129, 16, 32),                        // Azure's own services for a machine, inside a public range
    v4(169, 254, 0, 0, 16), // link-local, RFC 3927; the platform's metadata, credentials, time and names
    v4(172, 16, 0, 0, 12),  // private, RFC 1918
    v4(192, 0, 0, 0, 24),   // IETF protocols, RFC 6890
    v4(192, 0, 2, 0, 24),   // documentation, RFC 5737
    v4(192, 31, 196, 0, 24), // AS112, RFC 7535
    v4(192, 52, 193, 0, 24), // AMT, RFC 7450
    v4(192, 88, 99, 0, 24), // 6to4 relays, RFC 7526
    v4(192, 168, 0, 0, 16), // private, RFC 1918
    v4(192, 175, 48, 0, 24), // AS112, RFC 7534
    v4(198, 18, 0, 0, 15),  // benchmarking, RFC 2544
    v4(198, 51, 100, 0, 24), // documentation, RFC 5737
    v4(203, 0, 113, 0, 24), // documentation, RFC 5737
    v4(224, 0, 0, 0, 4),    // multicast, RFC 5771
    v4(240, 0, 0, 0, 4),    // reserved, RFC 1112, and broadcast, RFC 919
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), // IETF protocols, RFC 2928: Teredo, benchmarking, AMT, ORCHID, DRIP
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32), // documentation, RFC 3849
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), // 6to4, RFC 3056
    v6([0x2620, 0x004f, 0x8000, 0, 0, 0, 0, 0], 48), // AS112, RFC 7534
    v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), // 6bone, given back by RFC 3701
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), // documentation, RFC 9637
];

/// Whether an address belongs to somebody on the internet. IPv4 inside IPv6 is not public, whatever it is: the packets
/// would go to an IPv4 address by way of a translator, and a mail host has a plain one as well.
pub fn is_public(address: IpAddr) -> bool {
    (address.is_ipv4() || GLOBAL_UNICAST.contains(address)) && !SPECIAL.iter().any(|network| network.contains(address))
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

//! What a listener is called: the base URL that people are told, and the `Host` names that requests may carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The base URL of a listener on `address`, without a path. A listener on every address is called by loopback.
pub(crate) fn base_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// The names of a listener on `address` that are known without being told: none but loopback on loopback, else its own
/// address; for a listener on every address the machine's name and its addresses.
pub(crate) fn own_names(address: SocketAddr) -> Vec<String> {
    match address.ip() {
        ip if ip.is_unspecified() => machine_names(),
        IpAddr::V4(ip) => vec![ip.to_string()],
        IpAddr::V6(ip) => vec![format!("[{ip}]")],
    }
}

/// The authority of a base URL: the `Host` that a proxy in front passes on.
pub(crate) fn authority(base_url: &str) -> Option<String> {
    base_url.split_once("://").map(|(_, authority)| authority.to_owned())
}

fn machine_names() -> Vec<String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut names = Vec::new();
    let host = read("/proc/sys/kernel/hostname").trim().to_owned();
    if !host.is_empty() {
        names.push(format!("{host}.local"));
        names.push(host);
    }
    names.extend(ipv4(&read("/proc/net/fib_trie")));
    names.extend(ipv6(&read("/proc/net/if_inet6")));
    names.sort();
    names.dedup();
    names
}

/// The machine's own addresses in the kernel's routing table: each stands on the line before `/32 host LOCAL`.
fn ipv4(table: &str) -> Vec<String> {
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1].starts_with("/32 host LOCAL"));
    local.filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse::<Ipv4Addr>().ok()).map(|ip| ip.to_string()).collect()
}

/// The kernel's list of IPv6 addresses: 32 hex digits begin each line.
fn ipv6(table: &str) -> Vec<String> {
    let bits = table.lines().filter_map(|line| u128::from_str_radix(line.get(..32)?, 16).ok());
    bits.map(|bits| format!("[{}]", Ipv6Addr::from(bits))).collect()
}

#[cfg(test)]
mod tests {
    use super::{authority, base_url, ipv4, ipv6, machine_names, own_names};

    #[test]
    fn urls_can_be_opened() {
        assert_eq!(base_url("127.0.0.1:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(base_url("0.0.0.0:1".parse().unwrap()), "http://127.0.0.1:1");
        assert_eq!(base_url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(authority("https://mcp.example.com:1").unwrap(), "mcp.example.com:1");
    }

    #[test]
    fn the_kernel_knows_our_names() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.0\n        /24 link UNICAST\n";
        assert_eq!(ipv4(trie), ["10.0.0.7"]);
        assert_eq!(ipv6("fe800000000000000000000000000001 02 40 20 80 eth0\nx\n"), ["[fe80::1]"]);
        assert_eq!(own_names("[fe80::1]:80".parse().unwrap()), ["[fe80::1]"]);
        assert!(machine_names().contains(&"127.0.0.1".to_owned()));
    }
}

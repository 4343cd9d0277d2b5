use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The addresses of a cluster. Each machine of the cluster has its own addresses in the loopback
/// network, which Linux routes as a whole. Therefore the ports are the same for all machines.
///
/// The ports are below the range that Linux uses for outgoing connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    second: u8,
    third: u8,
}

impl Network {
    /// Returns a network that no other process is likely to choose.
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = process::id() ^ now.unwrap_or_default().subsec_micros();
        let [low, high, ..] = seed.to_le_bytes();
        Self {
            second: 64 + high % 64,
            third: low.wrapping_add(NUMBER.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(super) fn etcd(self) -> SocketAddr {
        self.address(1, 22379)
    }

    pub(super) fn etcd_peer(self) -> SocketAddr {
        self.address(1, 22380)
    }

    pub(super) fn haproxy(self) -> SocketAddr {
        self.address(2, 25432)
    }

    /// Returns the address at which a node's server listens.
    pub(super) fn postgres(self, node: u8) -> SocketAddr {
        self.address(20 + node, 25432)
    }

    /// Returns the address at which clients and other nodes reach the server.
    pub(super) fn postgres_relay(self, node: u8) -> SocketAddr {
        self.address(40 + node, 25432)
    }

    /// Returns the address at which a node's Patroni listens.
    pub(super) fn rest(self, node: u8) -> SocketAddr {
        self.address(20 + node, 28008)
    }

    /// Returns the address at which clients and other nodes reach Patroni.
    pub(super) fn rest_relay(self, node: u8) -> SocketAddr {
        self.address(40 + node, 28008)
    }

    /// Returns the address at which a node reaches etcd.
    pub(super) fn etcd_relay(self, node: u8) -> SocketAddr {
        self.address(60 + node, 22379)
    }

    fn address(self, machine: u8, port: u16) -> SocketAddr {
        let ip = Ipv4Addr::new(127, self.second, self.third, machine);
        SocketAddr::V4(SocketAddrV4::new(ip, port))
    }
}

//! A network namespace of its own for a process, joined to this one by a cable that can be pulled.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use super::commands::behind;

/// Needs root. Ends when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    near: String,
    far: String,
    /// Of the networks of four addresses in 10.231.0.0/16.
    block: u16,
}

fn ip(args: &str) -> bool {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    output.status.success()
}

impl Network {
    pub fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let pid = std::process::id();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            name: format!("orchestrator-{pid}-{count}"),
            near: format!("oa{pid}x{count}"),
            far: format!("ob{pid}x{count}"),
            block: ((pid.wrapping_mul(4) % (1 << 14)) as u16).wrapping_add(count) % (1 << 14),
        };
        network.set_up();
        network
    }

    fn set_up(&self) {
        let Self {
            name, near, far, ..
        } = self;
        let (outside, inside) = (self.outside(), self.address(2));
        for args in [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add {outside}/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add {inside}/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ] {
            assert!(ip(&args), "ip {args}: is this root?");
        }
    }

    fn address(&self, host: u16) -> Ipv4Addr {
        let address = self.block * 4 + host;
        Ipv4Addr::new(10, 231, (address >> 8) as u8, (address & 255) as u8)
    }

    /// Where this machine is reached from inside.
    pub fn outside(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The same command, inside.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]);
        behind(inside, command)
    }

    /// Nothing gets through any more, and nobody is told.
    pub fn pull(&self) {
        assert!(ip(&format!("-n {} link set {} down", self.name, self.far)));
    }

    /// Everything gets through again.
    pub fn plug(&self) {
        assert!(ip(&format!("-n {} link set {} up", self.name, self.far)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.near));
        ip(&format!("netns del {}", self.name));
    }
}

//! From arbitrary bytes to something that a parser, or the whole core, has to cope with. Each driver panics when an
//! invariant does not hold; the fuzz targets (`fuzz/`) and the replay of their corpus share them.

mod bench;
mod bridge;
mod bytes;
mod frames;
mod services;
mod streams;
mod texts;

pub use bridge::bridge;
pub use frames::{frames, vnet};
pub use services::{dhcp, dhcpv6, dns, names, ndp};
pub use streams::{reassembly, tcp};
pub use texts::{cli_native, cli_pasta, cli_slirp4netns, control, ports, proc_net, resolv_conf, rules};

/// A driver.
pub type Driver = fn(&[u8]);

/// All of them, by the name of the target.
pub const DRIVERS: [(&str, Driver); 18] = [
    ("frames", frames),
    ("vnet", vnet),
    ("dhcp", dhcp),
    ("dhcpv6", dhcpv6),
    ("ndp", ndp),
    ("dns", dns),
    ("names", names),
    ("tcp", tcp),
    ("reassembly", reassembly),
    ("control", control),
    ("cli_native", cli_native),
    ("cli_slirp4netns", cli_slirp4netns),
    ("cli_pasta", cli_pasta),
    ("ports", ports),
    ("resolv_conf", resolv_conf),
    ("rules", rules),
    ("proc_net", proc_net),
    ("bridge", bridge),
];

//! A way through the world: two routers behind it, and a host at the end.
//!
//! ```text
//! host --- world ------------- first ------------- second ------------- end
//!      .1  .2   192.0.2.1  .2        .5  .6          .9   .10
//!               2001:db8:a1::1 ::2   a2::1 ::2       a3::1 ::2
//! ```
//!
//! Every router tells about every packet that it drops: the limits that the kernel sets itself are off.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ground::{Ground, ip_batch, make_world, path_of, sysctl, within};

/// How the Ethernet addresses on the way begin. Everybody knows their neighbors, as on [`Ground`].
const MAC: &str = "02:00:c0:00:02";

/// The host at the end of the way.
pub const END4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// See [`END4`].
pub const END6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa3, 0, 0, 0, 0, 2);
/// Both.
pub const ENDS: [IpAddr; 2] = [IpAddr::V4(END4), IpAddr::V6(END6)];

/// Who is on the way from the host to the end.
pub fn hops(is_ipv6: bool) -> [&'static str; 4] {
    if is_ipv6 {
        ["2001:db8:1::2", "2001:db8:a1::2", "2001:db8:a2::2", "2001:db8:a3::2"]
    } else {
        ["203.0.113.2", "192.0.2.2", "192.0.2.6", "192.0.2.10"]
    }
}

/// All of it, which is gone when this is dropped.
pub struct Way {
    _routers: [File; 2],
    end: File,
}

impl Way {
    /// Calls `f` on a thread that lives at its end.
    pub fn at_end<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        within(&self.end, f)
    }
}

impl Ground {
    /// Builds the way; the link between the two routers carries packets of up to `mtu` bytes.
    #[must_use]
    pub fn with_routers(&self, mtu: u16) -> Way {
        let [first, second, end] = [make_world(), make_world(), make_world()];
        self.in_world(|| {
            forward();
            ip_batch(&format!(
                "link add w1 address {MAC}:11 type veth peer name r0 address {MAC}:12 netns {first}\n\
                 address add 192.0.2.1/30 dev w1\n\
                 address add 2001:db8:a1::1/64 dev w1 nodad\n\
                 link set w1 up\n\
                 neighbor add 2001:db8:a1::2 lladdr {MAC}:12 dev w1 nud permanent\n",
                first = path_of(&first),
            ));
        });
        within(&first, || {
            forward();
            ip_batch(&format!(
                "link set lo up\n\
                 link add r1 address {MAC}:21 mtu {mtu} type veth peer name s0 address {MAC}:22 mtu {mtu} netns {second}\n\
                 address add 192.0.2.2/30 dev r0\n\
                 address add 2001:db8:a1::2/64 dev r0 nodad\n\
                 address add 192.0.2.5/30 dev r1\n\
                 address add 2001:db8:a2::1/64 dev r1 nodad\n\
                 link set r0 up\n\
                 neighbor add 2001:db8:a1::1 lladdr {MAC}:11 dev r0 nud permanent\n\
                 link set r1 up\n\
                 neighbor add 2001:db8:a2::2 lladdr {MAC}:22 dev r1 nud permanent\n",
                second = path_of(&second),
            ));
        });
        within(&second, || {
            forward();
            ip_batch(&format!(
                "link set lo up\n\
                 link add s1 address {MAC}:31 type veth peer name e0 address {MAC}:32 netns {end}\n\
                 address add 192.0.2.6/30 dev s0\n\
                 address add 2001:db8:a2::2/64 dev s0 nodad\n\
                 address add 192.0.2.9/30 dev s1\n\
                 address add 2001:db8:a3::1/64 dev s1 nodad\n\
                 link set s0 up\n\
                 neighbor add 2001:db8:a2::1 lladdr {MAC}:21 dev s0 nud permanent\n\
                 link set s1 up\n\
                 neighbor add 2001:db8:a3::2 lladdr {MAC}:32 dev s1 nud permanent\n",
                end = path_of(&end),
            ));
        });
        within(&end, || {
            forward();
            // It knows the way back.
            ip_batch(&format!(
                "link set lo up\n\
                 address add 192.0.2.10/30 dev e0\n\
                 address add 2001:db8:a3::2/64 dev e0 nodad\n\
                 link set e0 up\n\
                 neighbor add 2001:db8:a3::1 lladdr {MAC}:31 dev e0 nud permanent\n\
                 route add default via 192.0.2.9 mtu {mtu}\n\
                 route add default via 2001:db8:a3::1 mtu {mtu}\n",
            ));
        });
        within(&second, || {
            ip_batch("route add default via 192.0.2.5\nroute add default via 2001:db8:a2::1\n");
        });
        within(&first, || {
            ip_batch(
                "route add default via 192.0.2.1\n\
                 route add default via 2001:db8:a1::1\n\
                 route add 192.0.2.8/30 via 192.0.2.6\n\
                 route add 2001:db8:a3::/64 via 2001:db8:a2::2\n",
            );
        });
        self.in_world(|| {
            ip_batch(
                "route add 192.0.2.0/24 via 192.0.2.2\n\
                 route add 2001:db8:a2::/64 via 2001:db8:a1::2\n\
                 route add 2001:db8:a3::/64 via 2001:db8:a1::2\n",
            );
        });
        Way { _routers: [first, second], end }
    }
}

fn forward() {
    sysctl("net/ipv4/ip_forward", "1");
    sysctl("net/ipv6/conf/all/forwarding", "1");
    sysctl("net/ipv4/icmp_ratemask", "0");
    sysctl("net/ipv6/icmp/ratelimit", "0");
}

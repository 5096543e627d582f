//! What only the kernel can do: devices, namespaces, processes and facts about the host.
//!
//! The one place with `unsafe` code; everything it offers is safe. It knows nothing of the rest of the crate:
//! arguments are plain numbers, paths and addresses, results are owned descriptors and typed errors. Each
//! error is one line that says what was asked, what was found and, where there is a remedy, what to do.
//!
//! Functions that change which namespaces the calling *process* is in ([`namespace`], [`mounts`]) are meant
//! for a forked, single-threaded child ([`process::fork_child`]); `netferry` itself never leaves the
//! network namespace it was started in, since that is where its host sockets belong ([`sandbox`] takes it out of
//! the others).
//!
//! - [`tap`], [`loose_tap`]: the Ethernet device the container sees; [`bess`]: the socket in its place for a virtual machine
//! - [`namespace`], [`id_map`]: entering namespaces that exist, making new ones
//! - [`netlink`], [`sysctl`]: configuring the container's network
//! - [`mounts`]: what a private mount namespace shows (`/etc/resolv.conf`, `/sys`)
//! - [`descriptor`]: handing a descriptor from one process to another
//! - [`outlet`]: writing to what nobody may read
//! - [`pipe`]: moving bytes between sockets without touching them
//! - [`process`]: children, signals, exit statuses; [`companion`]: a program that we talk to
//! - [`text`]: the program's own pages
//! - [`host`], [`memory`], [`resolv_conf`]: facts about the machine
//! - [`sandbox`], [`seccomp`]: giving up what serving does not need; [`confined`]: the proof of it
//! - [`byte_lock`]: one at a time
//! - [`messenger`]: signals to a command that we have no power over any more; [`janitor`]: files that we have no way to
#![allow(unsafe_code)] // ioctls, fork and a few system calls have no safe wrapper; the rest of the crate denies it.

pub mod bess;
pub mod byte_lock;
pub mod companion;
pub mod confined;
pub mod daemon;
pub mod descriptor;
pub mod host;
pub mod id_map;
pub mod janitor;
pub mod loose_tap;
pub mod memory;
pub mod messenger;
pub mod mounts;
pub mod namespace;
pub mod netlink;
pub mod outlet;
pub mod pipe;
pub mod proc_net;
pub mod process;
pub mod ready;
pub mod resolv_conf;
pub mod sandbox;
pub mod seccomp;
pub mod socket;
pub mod sysctl;
pub mod tap;
pub mod text;
pub mod user;
pub mod watch_path;

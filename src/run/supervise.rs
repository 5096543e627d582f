//! What besides packets keeps the loop busy: signals, the end of a process, new resolvers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info, warn};

use crate::sys::messenger::Messenger;
use crate::sys::netlink::watch::{AddressWatch, LostAddresses};
use crate::sys::process::{Child, ENDING_SIGNALS, ReceivedSignal, SignalOrigin, Signals};
use crate::sys::resolv_conf::{self, ResolvConfWatch};
use crate::sys::watch_path::PathWatch;
use crate::worker::{Reaction, Source};

/// The command of `netferry run`, and what passes between it and whoever started us.
#[derive(Debug)]
pub struct Supervised<'a> {
    /// The command's process.
    pub child: &'a Child,
    /// What we are sent.
    pub signals: Signals,
    /// Who may send it signals.
    pub messenger: Messenger,
}

impl Supervised<'_> {
    /// Passes signals on to the command. Those of the terminal it has got itself: they go to the whole
    /// foreground process group. The status to end with where one that would have ended the command can reach nobody but us.
    fn forward_signals(&self) -> Option<u8> {
        while let Ok(Some(ReceivedSignal { signal, origin })) = self.signals.next() {
            match origin {
                SignalOrigin::Kernel => {}
                SignalOrigin::Process(_) => match self.messenger.pass_on(signal) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.status().is_none() => {
                        warn!(
                            "the process that passes signals on has ended: {signal} does not reach the command, process {}",
                            self.child.pid()
                        );
                        if ENDING_SIGNALS.contains(&signal) {
                            return u8::try_from(128 + signal as i32).ok();
                        }
                    }
                    // It has ended just now, and we are about to hear of it; or it has more than it has taken yet.
                    Err(error) => debug!(%signal, %error, "signal not passed on"),
                },
            }
        }
        None
    }

    /// The command's status, once it has ended.
    fn status(&self) -> Option<u8> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(kind)) => Some(u8::try_from(kind.shell_status() & 0xff).unwrap_or(u8::MAX)),
            Err(error) => {
                debug!(%error, "the command cannot be waited for");
                Some(1)
            }
        }
    }

    /// The sources of `netferry run`.
    pub fn sources(&self) -> io::Result<Vec<Source<'_>>> {
        let ended = Source::new(self.child, move || {
            self.status().map_or(Reaction::Continue, Reaction::FinishDelivered)
        })?;
        let signalled = Source::new(&self.signals, move || {
            self.forward_signals().map_or(Reaction::Continue, Reaction::FinishDelivered)
        })?;
        Ok(vec![ended, signalled])
    }

    /// Waits for the command without serving a network: its interface is gone, it is not.
    pub fn wait(&self) -> io::Result<u8> {
        loop {
            if let Some(status) = self.forward_signals().or_else(|| self.status()) {
                return Ok(status);
            }
            let mut descriptors = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.child.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Ends `netferry attach` on a signal.
pub fn ending_signal(signals: &Signals) -> io::Result<Source<'_>> {
    Source::new(signals, move || match signals.next() {
        Ok(Some(received)) => {
            info!(signal = %received.signal, "ended by a signal");
            Reaction::Finish(0)
        }
        Ok(None) | Err(_) => Reaction::Continue,
    })
}

/// Ends `netferry attach` with the process whose namespace it serves.
pub fn ending_process<'a>(pidfd: &'a impl AsFd, pid: i32) -> io::Result<Source<'a>> {
    Source::new(pidfd, move || {
        info!(pid, "the process of the namespace has ended");
        Reaction::Finish(0)
    })
}

/// Ends with the file that the namespace is known by.
pub fn ending_path(watch: &PathWatch) -> io::Result<Source<'_>> {
    Source::new(watch, || {
        if !watch.is_gone() {
            return Reaction::Continue;
        }
        info!("the file of the namespace is gone");
        Reaction::Finish(0)
    })
}

/// Ends with the first event of a descriptor that somebody holds the other end of.
pub fn ending_descriptor(descriptor: &impl AsFd) -> io::Result<Source<'_>> {
    Source::new(descriptor, || {
        info!("ended by --exit-fd");
        Reaction::Finish(0)
    })
}

/// Has flows that send from an address which the host loses send from another.
pub fn address_changes<'a>() -> io::Result<Source<'a>> {
    let watch = AddressWatch::open().map_err(io::Error::other)?;
    let descriptor = watch.as_fd().try_clone_to_owned()?;
    Source::new(&descriptor, move || reaction_to(&watch))
}

/// What to do about addresses that the host has lost.
pub fn reaction_to(watch: &AddressWatch) -> Reaction {
    match watch.lost() {
        LostAddresses::These(addresses) if addresses.is_empty() => Reaction::Continue,
        LostAddresses::These(addresses) => {
            debug!(?addresses, "the host has lost addresses");
            Reaction::AddressesLost(Some(addresses))
        }
        LostAddresses::Any => Reaction::AddressesLost(None),
    }
}

/// Tells the core of new resolvers whenever the host's file names others.
pub fn resolver_changes<'a>(mut current: Vec<SocketAddr>) -> io::Result<Source<'a>> {
    let path = Path::new(resolv_conf::PATH);
    let mut watch = ResolvConfWatch::open(path)?;
    let descriptor = watch.as_fd().try_clone_to_owned()?;
    Source::new(&descriptor, move || {
        if !watch.drain() {
            return Reaction::Continue;
        }
        match resolv_conf::read_again(path) {
            Ok(Some(conf)) if conf.servers != current => {
                current.clone_from(&conf.servers);
                Reaction::ResolversChanged(conf.servers)
            }
            Ok(_) => Reaction::Continue,
            Err(error) => {
                debug!(%error, "the host's resolv.conf cannot be read");
                Reaction::Continue
            }
        }
    })
}

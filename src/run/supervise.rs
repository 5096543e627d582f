//! What besides packets keeps the loop busy: signals, the end of a process, new resolvers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info};

use crate::sys::process::{Child, ReceivedSignal, SignalOrigin, Signals};
use crate::sys::resolv_conf::{self, ResolvConfWatch};
use crate::sys::watch_path::PathWatch;
use crate::worker::{Reaction, Source};

/// Passes signals on to the command. Those of the terminal it has got itself: they go to the whole
/// foreground process group.
pub fn forward_signals(signals: &Signals, child: &Child) {
    while let Ok(Some(ReceivedSignal { signal, origin })) = signals.next() {
        match origin {
            SignalOrigin::Kernel => {}
            SignalOrigin::Process(_) => {
                // It may have ended just now, and we are about to hear of it.
                if let Err(error) = child.signal(signal) {
                    debug!(%signal, %error, "signal not passed on");
                }
            }
        }
    }
}

/// The command's status, once it has ended.
pub fn status_of(child: &Child) -> Option<u8> {
    match child.try_wait() {
        Ok(None) => None,
        Ok(Some(kind)) => Some(u8::try_from(kind.shell_status() & 0xff).unwrap_or(u8::MAX)),
        Err(error) => {
            debug!(%error, "the command cannot be waited for");
            Some(1)
        }
    }
}

/// The sources of `netferry run`.
pub fn command_sources<'a>(signals: &'a Signals, child: &'a Child) -> io::Result<Vec<Source<'a>>> {
    let ended =
        Source::new(child, move || status_of(child).map_or(Reaction::Continue, Reaction::FinishDelivered))?;
    let signalled = Source::new(signals, move || {
        forward_signals(signals, child);
        Reaction::Continue
    })?;
    Ok(vec![ended, signalled])
}

/// Waits for the command without serving a network: its interface is gone, it is not.
pub fn wait_for_command(signals: &Signals, child: &Child) -> io::Result<u8> {
    loop {
        forward_signals(signals, child);
        if let Some(status) = status_of(child) {
            return Ok(status);
        }
        let mut descriptors =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(child.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
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

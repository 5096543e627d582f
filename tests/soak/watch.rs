//! What the processes of an instance hold: memory, descriptors, threads, sockets.

use std::collections::HashSet;
use std::fs;

/// The processes of one instance.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Those that were started. The network of the first is the host's.
    roots: Vec<i32>,
    /// One in the container, whose network has sockets of the instance as well.
    inside: String,
}

/// What they hold at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Anonymous memory of all processes: what could leak.
    pub anonymous_bytes: u64,
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
    /// TCP sockets that are neither listening nor merely bound.
    pub streams: usize,
    /// Of UDP and echo; flows of theirs end by silence alone.
    pub datagrams: usize,
    pub pipe_ends: usize,
}

impl Sample {
    /// What is not one exchange of datagrams each, nor a pipe: of those that carry spliced bytes a few are kept.
    pub fn other_descriptors(&self) -> usize {
        self.descriptors - self.datagrams - self.pipe_ends
    }
}

impl Watched {
    pub fn new(roots: Vec<i32>, inside: &str) -> Watched {
        Watched { roots, inside: inside.to_owned() }
    }

    /// What they hold now.
    pub fn sample(&self) -> Sample {
        let networks = [self.roots[0].to_string(), self.inside.clone()];
        let of = |names: [&str; 2], counted: fn(&str) -> bool| -> HashSet<String> {
            let each = networks.iter().flat_map(|pid| names.map(|name| sockets(pid, name, counted)));
            each.flatten().collect()
        };
        let streams = of(["tcp", "tcp6"], |state| !["0A", "07"].contains(&state));
        let mut datagrams = of(["udp", "udp6"], |_| true);
        datagrams.extend(of(["icmp", "icmp6"], |_| true));
        let mut sample = Sample::default();
        for pid in self.processes() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let number = |name: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
            };
            sample.processes += 1;
            sample.anonymous_bytes += number("RssAnon:") << 10;
            sample.threads += number("Threads:") as usize;
            for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                sample.descriptors += 1;
                let Ok(target) = fs::read_link(entry.path()) else { continue };
                let target = target.to_string_lossy();
                sample.pipe_ends += usize::from(target.starts_with("pipe:"));
                let Some(inode) = target.strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']'))
                else {
                    continue;
                };
                sample.streams += usize::from(streams.contains(inode));
                sample.datagrams += usize::from(datagrams.contains(inode));
            }
        }
        sample
    }

    /// Those that were started and their descendants, as far as they are still the same program.
    fn processes(&self) -> Vec<i32> {
        let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let ours = program(self.roots[0]);
        let mut found = self.roots.clone();
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|word| word.parse().ok());
            let ours: Vec<i32> =
                children.filter(|child| program(*child) == ours && !found.contains(child)).collect();
            found.extend(ours);
        }
        found
    }
}

/// Inodes of the sockets in a table of the network that a process is in, by their state.
pub fn sockets(pid: &str, table: &str, counted: fn(&str) -> bool) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let chosen = rows.filter(|words| words.len() > 9 && counted(words[3]));
    chosen.map(|words| words[9].to_owned()).collect()
}

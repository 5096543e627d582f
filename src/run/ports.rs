//! The published ports, bound before the container is made, and the driver that is made with them.

use tracing::debug;

use super::facts::Facts;
use super::{Doing, RunError};
use crate::cli::Plan;
use crate::config::{Config, Limits, LinkConfig, PublishRule};
use crate::observe::capture::Capture;
use crate::sys::host;
use crate::worker::{Device, Listener, Worker};

/// Published ports, bound.
pub(super) struct Ports {
    pub(super) rules: Vec<PublishRule>,
    pub(super) listeners: Vec<Listener>,
    pub(super) descriptors: u64,
}

impl Ports {
    /// Binds every port, or none. To be called after the child is forked: neither the descriptors nor the
    /// raised limit are meant for it.
    pub(super) fn bind(plan: &Plan, link: &LinkConfig) -> Result<Ports, RunError> {
        let descriptors = host::raise_descriptor_limit().doing("read the limit of descriptors")?;
        let mut ports = Ports { rules: Vec::new(), listeners: Vec::new(), descriptors };
        for rule in plan.publish.iter().chain(&plan.forwarding.inward.required) {
            if link.container_like(rule.host_address).is_none() {
                // The family was taken away because this host has none of it.
                continue;
            }
            ports.listeners.push(Listener::bind(rule, plan.forwarding.freebind)?);
            ports.rules.push(*rule);
        }
        ports.bind_hopeful(plan, link);
        Ok(ports)
    }

    /// Binds what can be bound of the ports that are taken as they come, and leaves the rest, and the ports that
    /// clients are given by the kernel.
    fn bind_hopeful(&mut self, plan: &Plan, link: &LinkConfig) {
        let ephemeral = host::ephemeral_ports();
        let most = usize::try_from(self.descriptors / 2)
            .unwrap_or(usize::MAX)
            .min(Limits::default().published_ports);
        let hopeful = plan.forwarding.inward.hopeful.iter();
        for ports in hopeful.filter(|ports| link.container_like(ports.address).is_some()) {
            for port in ports.ports.iter().filter(|port| !ephemeral.contains(port)) {
                if self.listeners.len() >= most {
                    debug!(most, "no more ports are published");
                    return;
                }
                let rule = ports.rule(port);
                let is_listed = self.rules.iter().any(|other| {
                    (other.protocol, other.host_address, other.host_port)
                        == (rule.protocol, rule.host_address, rule.host_port)
                });
                if is_listed {
                    continue;
                }
                match Listener::bind(&rule, plan.forwarding.freebind) {
                    Ok(listener) => {
                        self.listeners.push(listener);
                        self.rules.push(rule);
                    }
                    Err(error) => debug!(%rule, %error, "not published"),
                }
            }
        }
    }

    pub(super) fn into_worker(
        self,
        plan: &Plan,
        facts: &Facts,
        devices: Vec<Device>,
        capture: Option<Capture>,
    ) -> Result<Worker, RunError> {
        let published = u64::try_from(self.rules.len()).unwrap_or(u64::MAX);
        let config = Config {
            link: facts.link.clone(),
            host_loopback: plan.host_loopback,
            transports: plan.transports,
            services: facts.services,
            offers: facts.offers.clone(),
            local_clients: plan.forwarding.local_clients,
            outbound: facts.outbound,
            closed_ports: plan.closed_ports,
            udp_mapping: plan.udp_mapping,
            publish: self.rules,
            host_addresses: facts.host_addresses.clone(),
            host_networks: facts.host_networks.clone(),
            rules: facts.rules.clone(),
            audit: plan.audit.is_some() || plan.audit_enforce.is_some(),
            limits: limits(self.descriptors.saturating_sub(published), facts.memory),
            timeouts: plan.timeouts,
        };
        let secret = host::random_secret().doing("draw a random number")?;
        let worker = Worker::several(&config, devices, self.listeners, &facts.resolvers, secret)
            .doing("watch the interface")?;
        let worker = worker.with_conditions(plan.conditions.limits, plan.conditions.impairments);
        Ok(match capture {
            Some(capture) => worker.with_capture(capture),
            None => worker,
        })
    }
}

/// What may be held: bounded by the descriptors and the memory there are.
fn limits(descriptors: u64, memory: Option<u64>) -> Limits {
    let limits = Limits::default().within_descriptors(descriptors);
    match memory {
        Some(bytes) => limits.within_memory(bytes),
        None => limits,
    }
}

//! Which client has which address of the pool.
//!
//! One record for each address that was ever given, at most [`crate::config::Limits::dhcp_leases`] of them: of a
//! larger pool only so many addresses are used. Nothing runs when a lease ends; a record whose time is over is
//! free, but remembers its client, who gets the same address again while nobody else took it. A new client gets
//! the lowest address that nobody ever had, or else the lowest that is free again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::config::{DhcpPool, Ipv4Link};
use crate::stack::boundary::{Duration, Instant};
use crate::wire::MacAddr;
use crate::wire::dhcp::Request;

use super::LEASE_SECONDS;

/// How long an offer waits to be taken up: as long as clients ask again (RFC 2131 §4.1), and not longer, lest
/// clients that never come back use the pool up.
const OFFER_TIME: Duration = Duration::from_secs(60);
/// How long an address rests that a client found in use.
const DECLINED_TIME: Duration = Duration::from_secs(600);

/// Who a client is (RFC 2131 §4.2): what it calls itself, or else its link address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientKey {
    /// Its client identifier.
    Identifier(Box<[u8]>),
    /// `chaddr`.
    Mac(MacAddr),
}

impl ClientKey {
    /// Whose message this is.
    #[must_use]
    pub fn of(request: &Request<'_>) -> ClientKey {
        match request.client_identifier {
            Some(identifier) => ClientKey::Identifier(identifier.into()),
            None => ClientKey::Mac(request.mac),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offered,
    Bound,
    Declined,
    Released,
}

#[derive(Debug)]
struct Lease {
    client: ClientKey,
    state: State,
    until: Instant,
}

impl Lease {
    fn is_free(&self, now: Instant) -> bool {
        self.state == State::Released || self.until <= now
    }
}

/// The records of one pool.
#[derive(Debug)]
pub struct Leases {
    /// Of which [`is_assignable`] addresses may be leased, and no more than the limit of them.
    pool: DhcpPool,
    link: Ipv4Link,
    by_address: BTreeMap<Ipv4Addr, Lease>,
}

/// Whether an address of the link can be somebody's other than ours.
#[must_use]
pub fn is_assignable(link: &Ipv4Link, address: Ipv4Addr) -> bool {
    link.subnet.contains(&address)
        && !link.is_broadcast(address)
        && link.gateway != address
        && link.dns != Some(address)
}

impl Leases {
    /// An empty table for the pool, or for its first `limit` addresses.
    #[must_use]
    pub fn new(pool: &DhcpPool, link: &Ipv4Link, limit: usize) -> Leases {
        let most = u32::try_from(limit.saturating_sub(1)).unwrap_or(u32::MAX);
        let last = pool.last.to_bits().min(pool.first.to_bits().saturating_add(most));
        let pool = DhcpPool { first: pool.first, last: last.into() };
        Leases { pool, link: *link, by_address: BTreeMap::new() }
    }

    /// Sets an address aside for `client`: the one it has or had, or the one it asks for, or the lowest. Nothing
    /// when all are taken.
    pub fn offer(
        &mut self,
        client: ClientKey,
        requested: Option<Ipv4Addr>,
        now: Instant,
    ) -> Option<Ipv4Addr> {
        let address = self
            .address_of(&client)
            .or_else(|| requested.filter(|&address| self.is_free(address, now)))
            .or_else(|| self.lowest_free(now))?;
        let lease = self.by_address.get(&address);
        // An offer does not cut short what the client already has.
        if !lease.is_some_and(|lease| lease.state == State::Bound && lease.until > now) {
            let until = now + OFFER_TIME;
            self.by_address.insert(address, Lease { client, state: State::Offered, until });
        }
        Some(address)
    }

    /// Leases `address` to `client`, from now on, if nobody else has it. Another that it had is free then.
    pub fn bind(&mut self, client: ClientKey, address: Ipv4Addr, now: Instant) -> bool {
        let is_its_own = self.is_held_by(&client, address);
        if !is_its_own && !self.is_free(address, now) {
            return false;
        }
        self.by_address.retain(|_, lease| lease.state == State::Declined || lease.client != client);
        let until = now + Duration::from_secs(LEASE_SECONDS.into());
        self.by_address.insert(address, Lease { client, state: State::Bound, until });
        true
    }

    /// Forgets an offer that `client` did not take up.
    pub fn withdraw_offer(&mut self, client: &ClientKey) {
        self.by_address.retain(|_, lease| lease.state != State::Offered || lease.client != *client);
    }

    /// `client` found that somebody else uses `address`, which was to be its own. Whether it was.
    pub fn decline(&mut self, client: &ClientKey, address: Ipv4Addr, now: Instant) -> bool {
        if !self.is_held_by(client, address) {
            return false;
        }
        let Some(lease) = self.by_address.get_mut(&address) else { return false };
        (lease.state, lease.until) = (State::Declined, now + DECLINED_TIME);
        true
    }

    /// `client` needs `address` no more. Whether it had it.
    pub fn release(&mut self, client: &ClientKey, address: Ipv4Addr) -> bool {
        if !self.is_held_by(client, address) {
            return false;
        }
        let Some(lease) = self.by_address.get_mut(&address) else { return false };
        lease.state = State::Released;
        true
    }

    /// The address that is set aside for the client, or was last.
    fn address_of(&self, client: &ClientKey) -> Option<Ipv4Addr> {
        let mut records = self.by_address.iter();
        let own = records.find(|(_, lease)| lease.state != State::Declined && lease.client == *client)?;
        Some(*own.0)
    }

    fn is_held_by(&self, client: &ClientKey, address: Ipv4Addr) -> bool {
        let lease = self.by_address.get(&address);
        lease.is_some_and(|lease| lease.state != State::Declined && lease.client == *client)
    }

    fn is_free(&self, address: Ipv4Addr, now: Instant) -> bool {
        (self.pool.first..=self.pool.last).contains(&address)
            && is_assignable(&self.link, address)
            && self.by_address.get(&address).is_none_or(|lease| lease.is_free(now))
    }

    /// The lowest address that nobody was ever given, or else the lowest that is free again.
    fn lowest_free(&self, now: Instant) -> Option<Ipv4Addr> {
        let pool = || (self.pool.first.to_bits()..=self.pool.last.to_bits()).map(Ipv4Addr::from_bits);
        pool()
            .find(|address| !self.by_address.contains_key(address) && self.is_free(*address, now))
            .or_else(|| pool().find(|address| self.is_free(*address, now)))
    }
}

#[cfg(test)]
mod tests;

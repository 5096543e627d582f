//! What the core asks of the sockets at once: bytes and datagrams, read and written.

use super::run::Run;
use super::{FlowSocket, Sockets, host_error};
use crate::stack::boundary::{
    ArrivedDatagrams, DatagramPort, DatagramRead, DatagramSend, DatagramWrite, FlowId, HostEvent, HostIo,
    NetworkErrorReport, StreamRead, StreamWrite,
};
use crate::sys::socket::datagram::Received;
use crate::sys::socket::{Outgoing, SocketError, Transfer};
use crate::worker::fault;

impl HostIo for Sockets {
    fn receive_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        let outcome = self.read_stream(flow, buffer);
        if self.watch.is_some() {
            self.see_read(flow, outcome, buffer);
        }
        outcome
    }

    fn send_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        let outcome = self.write_stream(flow, bytes);
        if self.watch.is_some() {
            self.see_written(flow, outcome, bytes);
        }
        outcome
    }

    fn receive_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        let outcome = self.read_datagrams(port, buffer);
        if self.watch.is_some()
            && let DatagramRead::Arrived(arrived) = &outcome
        {
            self.see_arrived(port, arrived, &buffer[..arrived.len]);
        }
        outcome
    }

    fn send_datagrams(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        if !self.can_wait(port) || !Run::may_wait(bytes, how) {
            // What came before leaves before.
            self.send_waiting();
            return self.send_now(port, bytes, how);
        }
        if !self.run.add(port, bytes, how) {
            self.send_waiting();
            self.run.add(port, bytes, how);
        }
        DatagramWrite::Sent
    }
}

impl Sockets {
    fn read_stream(&mut self, flow: FlowId, buffer: &mut [u8]) -> StreamRead {
        let Some(FlowSocket::Stream(stream)) = self.socket(flow) else { return StreamRead::Blocked };
        match stream.receive(buffer) {
            Transfer::Bytes(0) => StreamRead::End,
            Transfer::Bytes(len) => StreamRead::Bytes(len),
            Transfer::Blocked => StreamRead::Blocked,
            Transfer::Failed(SocketError::Exhausted) => {
                self.starved.push(flow);
                StreamRead::Blocked
            }
            Transfer::Failed(error) => StreamRead::Failed(host_error(error)),
        }
    }

    fn write_stream(&mut self, flow: FlowId, bytes: &[u8]) -> StreamWrite {
        fault::strike(bytes);
        let Some(FlowSocket::Stream(stream)) = self.socket(flow) else { return StreamWrite::Blocked };
        match stream.send(bytes) {
            Transfer::Bytes(len) => StreamWrite::Bytes(len),
            Transfer::Blocked => StreamWrite::Blocked,
            Transfer::Failed(SocketError::Exhausted) => {
                self.starved.push(flow);
                StreamWrite::Blocked
            }
            Transfer::Failed(error) => StreamWrite::Failed(host_error(error)),
        }
    }

    fn read_datagrams(&mut self, port: DatagramPort, buffer: &mut [u8]) -> DatagramRead {
        let mut spare = std::mem::take(&mut self.spare);
        if spare.is_empty() {
            // Not before it is needed: there may be very many of us.
            spare = vec![0; usize::from(u16::MAX)].into();
        }
        let received = self.datagram_socket(port).map(|socket| socket.receive_run(buffer, &mut spare));
        self.spare = spare;
        let Some(received) = received else { return DatagramRead::Blocked };
        match received {
            Received::Datagram(arrived) => DatagramRead::Arrived(ArrivedDatagrams {
                len: arrived.len,
                segment_bytes: arrived.segment_bytes,
                source: arrived.source,
                local: arrived.local,
                traffic_class: arrived.traffic_class,
                hop_limit: arrived.hop_limit,
            }),
            Received::Blocked => DatagramRead::Blocked,
            Received::Failed(error) => DatagramRead::Failed(host_error(error)),
        }
    }

    fn can_wait(&mut self, port: DatagramPort) -> bool {
        self.datagram_socket(port).is_some_and(|socket| socket.is_udp())
    }

    /// Sends the datagrams that wait. To be called at the end of each turn, and before a socket is closed.
    pub fn send_waiting(&mut self) {
        let Some(departure) = self.run.take() else { return };
        let outcome = self.send_now(departure.port, &departure.bytes, &departure.how);
        let refused = match outcome {
            DatagramWrite::Sent => {
                self.run.give_back(departure.bytes);
                return;
            }
            DatagramWrite::Failed(error) => {
                let first =
                    departure.how.segment_bytes.map_or(departure.bytes.len(), |each| each.get().into());
                let payload = departure.bytes[..first.min(departure.bytes.len())].to_vec();
                let (destination, local) = (departure.how.to, departure.how.from);
                let report = NetworkErrorReport { error, notice: None, destination, local, payload };
                Some((departure.port, report))
            }
            DatagramWrite::Blocked => None,
        };
        self.lost.push(HostEvent::DatagramsLost { count: departure.count, refused });
        self.run.give_back(departure.bytes);
    }

    /// Whether the kernel had no memory for a stream, which no event will tell the end of.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    /// The next of the flows to be tried again.
    pub fn take_starved(&mut self) -> Option<FlowId> {
        let flow = self.starved.pop()?;
        if let Some(FlowSocket::Stream(stream)) = self.socket(flow) {
            stream.try_again();
        }
        Some(flow)
    }

    /// What the core is to be told of datagrams that it takes as sent.
    pub fn take_lost(&mut self) -> Option<HostEvent> {
        self.lost.pop()
    }

    fn send_now(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        let outcome = self.send_outgoing(port, bytes, how);
        if self.watch.is_some() && outcome == DatagramWrite::Sent {
            self.see_departed(port, how, bytes);
        }
        outcome
    }

    fn send_outgoing(&mut self, port: DatagramPort, bytes: &[u8], how: &DatagramSend) -> DatagramWrite {
        let Some(socket) = self.datagram_socket(port) else { return DatagramWrite::Blocked };
        let outgoing = Outgoing {
            to: how.to,
            from: how.from,
            segment_bytes: how.segment_bytes,
            hop_limit: how.hop_limit,
            traffic_class: how.traffic_class,
            dont_fragment: how.dont_fragment,
        };
        match socket.send(bytes, &outgoing) {
            Transfer::Bytes(_) => DatagramWrite::Sent,
            Transfer::Blocked => DatagramWrite::Blocked,
            Transfer::Failed(error) => DatagramWrite::Failed(host_error(error)),
        }
    }
}

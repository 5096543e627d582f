"""A TCP peer in the container that sends what it is told to, frame by frame. The kernel's own TCP does not see its ports."""
import socket, struct, subprocess, sys, time

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
GATEWAY, MINE = '10.0.2.2', '10.0.2.100'
SERVER = sys.argv[1]
USUAL = bytes([2, 4, 5, 0xb4, 4, 2, 1, 1])

def tables(words):
    subprocess.run(['iptables'] + words.split(), check=True)

tables('-A INPUT -p tcp --dport 45000:65000 -j DROP')

def gateway_mac():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _ in range(100):
            s.sendto(b'x', (GATEWAY, 9))
            for line in open('/proc/net/arp'):
                words = line.split()
                if words[0] == GATEWAY and words[3] != '00:00:00:00:00:00':
                    return words[5], bytes.fromhex(words[3].replace(':', ''))
            time.sleep(0.05)
    sys.exit('the gateway has no link address')

DEVICE, GATEWAY_MAC = gateway_mac()
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
link.bind((DEVICE, 0x0800))
MAC = link.getsockname()[4]

def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

class Segment:
    def __init__(self, packet):
        head = (packet[0] & 15) * 4
        tcp = packet[head:struct.unpack('!H', packet[2:4])[0]]
        self.at = time.monotonic()
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.win = struct.unpack('!HHIIBBH', tcp[:16])
        self.options, self.data = tcp[20:(offset >> 4) * 4], tcp[(offset >> 4) * 4:]
        pseudo = packet[12:20] + struct.pack('!BBH', 0, 6, len(tcp))
        assert checksum(pseudo + tcp) == 0, 'a wrong checksum'
    def __repr__(self):
        return '<%02x %d+%d ack %d win %d>' % (self.flags, self.seq, len(self.data), self.ack, self.win)

class Peer:
    def __init__(self, port=45000, server_port=7000):
        self.port, self.server_port, self.next, self.expected, self.window = port, server_port, 1000000, 0, 65535
        self.seen = []
    def send(self, flags=ACK, data=b'', seq=None, ack=None, options=b'', urgent=0, window=None):
        seq = self.next if seq is None else seq
        ack = self.expected if ack is None else ack
        tcp = struct.pack('!HHIIBBHHH', self.port, self.server_port, seq & 0xffffffff, ack & 0xffffffff,
            (20 + len(options)) << 2, flags, self.window if window is None else window, 0, urgent) + options + data
        addresses = socket.inet_aton(MINE) + socket.inet_aton(SERVER)
        sum_ = checksum(addresses + struct.pack('!BBH', 0, 6, len(tcp)) + tcp)
        tcp = tcp[:16] + struct.pack('!H', sum_) + tcp[18:]
        ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + addresses
        ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
        link.send(GATEWAY_MAC + MAC + b'\x08\x00' + ip + tcp)
    def hear(self, seconds):
        """What comes within so many seconds."""
        until, heard = time.monotonic() + seconds, []
        while (left := until - time.monotonic()) > 0:
            link.settimeout(left)
            try: frame, address = link.recvfrom(65535)
            except (socket.timeout, BlockingIOError): break
            if address[2] == 4 or frame[23] != 6: continue
            segment = Segment(frame[14:])
            if (segment.sport, segment.dport) == (self.server_port, self.port): heard.append(segment)
        return heard
    def await_(self, wanted, seconds=10):
        """The first segment that is as wanted."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for segment in self.hear(0.02):
                self.seen.append(segment)
            for place, segment in enumerate(self.seen):
                if wanted(segment):
                    del self.seen[:place + 1]
                    return segment
        sys.exit('waited in vain; saw %r' % self.seen)
    def connect(self, options=USUAL):
        self.send(SYN, options=options, ack=0)
        answer = self.await_(lambda s: s.flags & SYN)
        assert answer.flags & 63 == SYN | ACK and answer.ack == self.next + 1, answer
        self.next, self.expected = self.next + 1, answer.seq + 1
        self.send()
        return answer
    def say(self, data):
        self.send(ACK | PSH, data)
        self.next += len(data)
    def take(self, wanted, seconds=10):
        """Acknowledges bytes in order until so many have come."""
        data, until = b'', time.monotonic() + seconds
        while len(data) < wanted and time.monotonic() < until:
            for s in self.seen + self.hear(0.02):
                if s.data and s.seq == self.expected & 0xffffffff:
                    data += s.data; self.expected += len(s.data)
            self.seen = []
            self.send()
        return data

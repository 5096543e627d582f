"""A bad path from the host to the world: two TAPs, and between them a loss of 1 % and 25 ms each way. No netem is needed."""
import ctypes, fcntl, heapq, os, random, select, struct, subprocess, sys, time

LOSS, DELAY = 0.01, 0.025

def tap(name, address):
    descriptor = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x1002))
    for words in ('address add %s dev %s' % (address, name), 'link set %s up' % name):
        subprocess.run(['ip'] + words.split(), check=True)
    return descriptor

host = tap('bad0', '192.0.2.1/24')
world = os.open(sys.argv[1], os.O_RDONLY)
assert ctypes.CDLL(None, use_errno=True).setns(world, 0) == 0
far = tap('bad1', '192.0.2.2/24')
other, chance, waiting, number = {host: far, far: host}, random.Random(7), [], 0
counts = [0, 0]
print('ready', flush=True)
while True:
    now = time.monotonic()
    while waiting and waiting[0][0] <= now:
        _, _, to, frame = heapq.heappop(waiting)
        try: os.write(to, frame)
        except BlockingIOError: pass
    timeout = max(0, waiting[0][0] - now) if waiting else None
    for descriptor in select.select(list(other), [], [], timeout)[0]:
        for _ in range(64):
            try: frame = os.read(descriptor, 65536)
            except BlockingIOError: break
            number += 1
            counts[0] += 1
            # Neighbours find each other all the same.
            if frame[12:14] == b'\x08\x00' and chance.random() < LOSS:
                counts[1] += 1
                print('lost', counts[1], 'of', counts[0], flush=True)
                continue
            heapq.heappush(waiting, (time.monotonic() + DELAY, number, other[descriptor], frame))

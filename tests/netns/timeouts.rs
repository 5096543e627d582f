//! Timeouts on the real kernel: who is there keeps its connection, and who is gone is found out.

use std::io::{Read, Write};
use std::process::Command;

use crate::ground::{PYTHON, WORLD4, WORLDS, sealed};
use crate::process::{Stream, run, start};
use crate::servers::serve_streams;

const IDLE_CLIENT: &str = "\
import errno, socket, sys, time
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET); s.settimeout(40)
s.connect((sys.argv[1], 7000)); s.sendall(b'x'); s.recv(1); print('connected', flush=True)
if sys.argv[2] == 'speaks':
    time.sleep(5); s.sendall(b'y'); print('heard', s.recv(1).decode())
else:
    begun = time.monotonic()
    try: print('read', s.recv(1))
    except OSError as error: print(errno.errorcode.get(error.errno, error), time.monotonic() - begun > 5)";

const SHORT: &str = "tcp-established=1s,tcp-probe=1s";

#[test]
fn a_connection_idle_beyond_its_timeout_goes_on_while_both_sides_are_there() {
    sealed(|ground| {
        for world in WORLDS {
            serve_streams(ground.world_listener(world, 7000), |mut stream, _| {
                let mut byte = [0];
                while stream.read(&mut byte)? == 1 {
                    stream.write_all(&byte)?;
                }
                Ok(())
            });
            let address = world.to_string();
            let options = ["run", "--timeout", SHORT, "--", PYTHON, "-c", IDLE_CLIENT, &address, "speaks"];
            let outcome = run(ground.netferry(&options)).expect_success();
            assert_eq!(outcome.stdout, "connected\nheard y\n");
        }
    });
}

#[test]
fn a_peer_whose_machine_is_gone_is_found_out() {
    sealed(|ground| {
        serve_streams(ground.world_listener(WORLD4, 7000), |mut stream, _| {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
            // Held until the case ends.
            stream.read_exact(&mut byte)
        });
        let address = WORLD4.to_string();
        let options = ["run", "--timeout", SHORT, "--", PYTHON, "-c", IDLE_CLIENT, &address, "listens"];
        let mut client = start(ground.netferry(&options));
        client.wait_for(Stream::Out, "connected");
        let down = |world: &mut Command| world.args(["link", "set", "world0", "down"]).status();
        assert!(ground.in_world(|| down(&mut Command::new("ip"))).unwrap().success());
        // One second of silence, then nine questions, a second apart.
        client.wait_for(Stream::Out, "ECONNRESET True");
    });
}

//! The one image of all cases: busybox, and the programs of this machine that busybox has no match for.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::ground::{Ground, SCRATCH, find_program};
use crate::session::Session;

/// Its name in the user's storage.
pub const IMAGE: &str = "localhost/tools";
/// A program that says where the peer of socat comes from, to the peer and to the log.
pub const GREETER: &str = "#!/bin/sh\n\
    echo \"from $SOCAT_PEERADDR:$SOCAT_PEERPORT\" >&2\n\
    echo \"from $SOCAT_PEERADDR:$SOCAT_PEERPORT\"\n";
/// Where the image has it.
pub const GREET: &str = "/bin/greet";
/// What it has, and where.
const PROGRAMS: [(&str, &str); 3] = [("busybox", "bin"), ("curl", "usr/bin"), ("socat", "usr/bin")];

/// Makes the image and puts it into the user's storage.
pub fn import(session: &Session) {
    session.ground.needs(&["podman", "crun", "busybox", "curl", "socat"]);
    let archive = format!("{SCRATCH}/image.tar");
    pack(session.ground, &archive);
    session.podman(&["import", "--quiet", &archive, IMAGE]).expect_success();
}

fn pack(ground: &Ground, archive: &str) {
    let root = Path::new("/tmp/image");
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(directory)).expect("private directory");
    }
    for applet in ground.text_of("busybox", &["--list"]).lines() {
        if applet != "busybox" {
            symlink("/bin/busybox", root.join("bin").join(applet)).expect("private directory");
        }
    }
    let mut files = BTreeSet::new();
    for (program, place) in PROGRAMS {
        let path = find_program(program).expect("installed");
        let libraries = ground.text_of("ldd", &[path.to_str().expect("a plain path")]);
        files.extend(libraries.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
        fs::copy(&path, root.join(place).join(program)).expect("private directory");
    }
    for file in files {
        let place = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a file")).expect("private directory");
        fs::copy(&file, place).expect("private directory");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("private directory");
    fs::write(root.join("etc/group"), "root:x:0:\n").expect("private directory");
    let greet = root.join(GREET.trim_start_matches('/'));
    fs::write(&greet, GREETER).expect("private directory");
    fs::set_permissions(&greet, Permissions::from_mode(0o755)).expect("private directory");
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--directory"])
        .arg(root)
        .args(["--create", "--file", archive, "."])
        .status()
        .expect("tar starts");
    assert!(status.success(), "tar: {status}");
}

//! What the ground mounts: private files in the place of the machine's, or another root file system.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::{BIN, MOUNT_POINT, Privilege, SCRATCH, SUBJECT, cannot_run, privilege};

/// Makes `root` the root of this mount namespace, behind a layer that takes all changes. Devices, processes and the
/// program under test are where they were.
pub fn enter_root(root: &Path) {
    if !root.join("etc").is_dir() {
        cannot_run(&format!(
            "there is no root file system at {}: tests/run makes it, as root",
            root.display()
        ));
    }
    if privilege() != Privilege::Root {
        cannot_run("another root file system takes the machine's root to enter: run as root");
    }
    let subject = subject();
    let root = fs::canonicalize(root).expect("it is there");
    let (layer, new) = (Path::new(MOUNT_POINT), Path::new("/mnt/root"));
    tmpfs(MOUNT_POINT, "mode=0755");
    for directory in ["upper", "work", "root"] {
        fs::create_dir(layer.join(directory)).expect("private directory");
    }
    let options = format!("lowerdir={},upperdir=/mnt/upper,workdir=/mnt/work", root.display());
    mount(Some("overlay"), new, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap_or_else(|error| cannot_run(&format!("overlay on {}: {error}", root.display())));
    for directory in ["dev", "proc", "sys"] {
        bind(&Path::new("/").join(directory), &new.join(directory));
    }
    let place = new.join(subject.strip_prefix("/").expect("it is absolute"));
    fs::create_dir_all(place.parent().expect("a file")).expect("private directory");
    File::create(&place).expect("private directory");
    bind(&subject, &place);
    fs::write(new.join("etc/resolv.conf"), "").expect("private directory");
    nix::unistd::pivot_root(new, new).expect("it is a mount");
    nix::mount::umount2("/", nix::mount::MntFlags::MNT_DETACH).expect("the former root lies on it");
    env::set_current_dir("/").expect("a directory");
}

/// Hides the machine's files that cases write to behind private ones.
pub fn mount_private_files() {
    let subject = subject();
    tmpfs(MOUNT_POINT, "mode=0755");
    File::create(SUBJECT).expect("mount point");
    bind(&subject, Path::new(SUBJECT));
    // Only after the binding: the program may itself lie below /tmp.
    tmpfs("/tmp", "mode=1777");
    fs::create_dir(SCRATCH).expect("mount point");
    tmpfs(SCRATCH, "mode=1777");
    let resolv = Path::new(MOUNT_POINT).join("resolv.conf");
    fs::write(&resolv, "").expect("private file");
    let target = fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|error| {
        cannot_run(&format!("/etc/resolv.conf does not lead to a file ({error}); cases need it to cover it"))
    });
    bind(&resolv, &target);
}

/// Where the program under test is.
fn subject() -> PathBuf {
    let subject = env::var_os(BIN).unwrap_or_else(|| env!("CARGO_BIN_EXE_netferry").into());
    fs::canonicalize(&subject).unwrap_or_else(|error| panic!("{BIN} {subject:?}: {error}"))
}

fn tmpfs(target: &str, options: &str) {
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options))
        .unwrap_or_else(|error| panic!("tmpfs on {target}: {error}"));
}

/// Shows `source` at `target`, which exists, to everyone on the ground.
pub fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap_or_else(|error| panic!("{} on {}: {error}", source.display(), target.display()));
}

//! What of the host's files a sandbox shows, found by following links.
//!
//! A file that is to be read again later must be found by its name, whatever becomes of it: rewritten in place,
//! replaced by renaming, a link turned elsewhere. Only its directory can show that, so directories are shown,
//! each link's and the file's; but of those only where system services keep such files ([`is_harmless`]). A
//! directory full of sockets or somebody's home is not shown for one file's sake: there the file alone is,
//! and its replacement is not seen. Links among the directories on the way are made again as they are.
//! Reference: path_resolution(7).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The kernel follows so many links in one path.
const MAX_LINKS: usize = 40;

/// The part of the host's file system that a sandbox shows, read-only. Paths are absolute and free of links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Directories with everything below.
    pub directories: Vec<PathBuf>,
    /// Single files.
    pub files: Vec<PathBuf>,
    /// Links and what they say.
    pub links: Vec<(PathBuf, PathBuf)>,
}

impl View {
    /// What it takes to read `files` (absolute paths) again later.
    pub fn of(files: &[&Path]) -> View {
        let mut view = View::default();
        for file in files {
            view.add(file);
        }
        view.reduce();
        view
    }

    /// Every path that has to exist on the host for the view to be shown.
    pub fn sources(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().chain(&self.files).map(PathBuf::as_path)
    }

    /// Walks `file` as the kernel would, as far as it leads.
    fn add(&mut self, file: &Path) {
        let mut steps = steps_of(file);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Root => at = PathBuf::from("/"),
                Step::Up => {
                    at.pop();
                }
                Step::Into(name) => {
                    let next = at.join(name);
                    let is_last = steps.is_empty();
                    match fs::read_link(&next) {
                        Ok(text) => {
                            links += 1;
                            if links > MAX_LINKS {
                                return;
                            }
                            if is_last && is_harmless(&at) {
                                self.directories.push(at.clone());
                            } else {
                                self.links.push((next, text.clone()));
                            }
                            for step in steps_of(&text).into_iter().rev() {
                                steps.push_front(step);
                            }
                        }
                        Err(_) if is_last && is_harmless(&at) => self.directories.push(at.clone()),
                        Err(_) if is_last => self.files.push(next),
                        Err(_) => at = next,
                    }
                }
            }
        }
    }

    /// Leaves out what does not exist and what is shown anyway.
    fn reduce(&mut self) {
        self.directories.retain(|directory| directory.is_dir());
        self.directories.sort();
        // In order, whatever lies below a directory follows it.
        self.directories.dedup_by(|later, earlier| later.starts_with(earlier));
        let directories = &self.directories;
        let is_shown = |path: &Path| directories.iter().any(|directory| path.starts_with(directory));
        self.files.retain(|file| file.is_file() && !is_shown(file));
        self.files.sort();
        self.files.dedup();
        self.links.retain(|(link, _)| !is_shown(link));
        self.links.sort();
        self.links.dedup();
    }
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

fn steps_of(path: &Path) -> VecDeque<Step> {
    let steps = path.components().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_os_string())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

/// Whether a directory may be shown as a whole: `/etc`, and the directories of single services below `/run`
/// (where `/run` itself, and what users have there, is full of sockets that must not be reached).
fn is_harmless(directory: &Path) -> bool {
    let of_service = |root: &str| directory.strip_prefix(root).is_ok_and(|below| below != Path::new(""));
    directory.starts_with("/etc") || (of_service("/run") && !directory.starts_with("/run/user"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(texts: &[&str]) -> Vec<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn only_etc_and_directories_of_services_are_shown_whole() {
        for shown in ["/etc", "/etc/resolvconf/run", "/run/systemd/resolve", "/run/NetworkManager"] {
            assert!(is_harmless(Path::new(shown)), "{shown}");
        }
        for hidden in
            ["/", "/run", "/run/user/1000", "/run/user", "/home/user", "/tmp", "/etcetera", "/runner/x"]
        {
            assert!(!is_harmless(Path::new(hidden)), "{hidden}");
        }
    }

    #[test]
    fn a_file_of_etc_shows_etc() {
        let view = View::of(&[Path::new("/etc/passwd"), Path::new("/etc/no-such-file")]);
        assert_eq!(view, View { directories: paths(&["/etc"]), ..View::default() });
    }

    #[test]
    fn a_file_elsewhere_is_shown_alone_with_the_links_that_lead_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink(root.join("link/../link/file"), root.join("name")).unwrap();
        let view = View::of(&[&root.join("name")]);
        assert_eq!(view.directories, paths(&[]));
        assert_eq!(view.files, [root.join("real/file")]);
        let links =
            [(root.join("link"), PathBuf::from("real")), (root.join("name"), root.join("link/../link/file"))];
        assert_eq!(view.links, links);
    }

    #[test]
    fn a_link_to_nothing_and_a_link_to_itself_show_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let view = View::of(&[&root.join("dangling"), &root.join("loop")]);
        assert_eq!(view.sources().count(), 0, "{view:?}");
    }

    #[test]
    fn no_file_is_an_empty_view() {
        assert_eq!(View::of(&[]), View::default());
    }
}

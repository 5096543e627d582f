//! Images built with the network: `podman build` and buildah, which find `slirp4netns` by the search path only.

use std::fs;

use crate::ground::{SCRATCH, WORLD4, sealed};
use crate::image::{IMAGE, import};
use crate::session::{Session, finish};
use crate::witness::Pages;

/// A directory with a recipe that fetches pages of the world.
fn recipe() -> String {
    let directory = format!("{SCRATCH}/build");
    fs::create_dir(&directory).unwrap();
    let content = format!(
        "FROM {IMAGE}\n\
         RUN curl -sS http://203.0.113.2:8080/ > /page\n\
         RUN curl -4sS http://www.test:8080/ >> /page\n"
    );
    fs::write(format!("{directory}/Containerfile"), content).unwrap();
    directory
}

/// Fails the case unless the image `built` has what the recipe fetched.
#[track_caller]
fn assert_fetched(session: &Session) {
    let outcome = session.podman(&["run", "--rm", "--network=none", "localhost/built", "cat", "/page"]);
    assert_eq!(outcome.expect_success().stdout, "hello 203.0.113.1\nhello 203.0.113.1\n");
}

#[test]
fn podman_build_fetches_from_the_world() {
    sealed(|ground| {
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        let build = ["build", "--tag=localhost/built", &recipe()];
        finish(session.command_by_path("podman", &build)).expect_success();
        assert_fetched(&session);
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn buildah_bud_fetches_from_the_world() {
    sealed(|ground| {
        ground.needs(&["buildah"]);
        let session = Session::start(ground);
        ground.world_resolver(WORLD4, "first");
        let pages = Pages::open(&session);
        import(&session);
        let build = ["bud", "--tag=localhost/built", &recipe()];
        finish(session.command_by_path("buildah", &build)).expect_success();
        assert_fetched(&session);
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn buildah_run_fetches_from_the_world() {
    sealed(|ground| {
        ground.needs(&["buildah"]);
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        finish(session.command_by_path("buildah", &["from", "--name=work", IMAGE])).expect_success();
        let run = ["run", "work", "--", "curl", "-sS", "http://203.0.113.2:8080/"];
        let outcome = finish(session.command_by_path("buildah", &run)).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
        session.assert_relays_gone();
    });
}

#[test]
fn podman_run_finds_the_program_by_the_search_path() {
    sealed(|ground| {
        let session = Session::start(ground);
        let pages = Pages::open(&session);
        import(&session);
        let run = ["run", "--rm", "--network=slirp4netns", IMAGE, "curl", "-sS", "http://203.0.113.2:8080/"];
        let outcome = finish(session.command_by_path("podman", &run)).expect_success();
        assert_eq!(outcome.stdout, "hello 203.0.113.1\n");
        pages.assert_carried_by_subject();
    });
}

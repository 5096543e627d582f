//! The manual page says all that the help says.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../docs/man/netferry.1");

/// The page with its hyphens as they are typed.
fn page() -> String {
    PAGE.replace("\\-", "-")
}

/// Commands with a page of their own.
fn has_own_page(command: &clap::Command) -> bool {
    !["run", "attach", "help"].contains(&command.get_name())
}

/// Every long and short option of the command and its subcommands, as typed, but of those with a page of their own.
fn options_of(command: &clap::Command) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for argument in command.get_arguments() {
        options.extend(argument.get_long().map(|long| format!("--{long}")));
        options.extend(argument.get_short().map(|short| format!("-{short}")));
    }
    let below =
        command.get_subcommands().filter(|below| command.get_name() != "netferry" || !has_own_page(below));
    below.for_each(|below| options.extend(options_of(below)));
    options
}

fn command() -> clap::Command {
    let mut command = netferry::cli::command();
    command.build();
    command
}

/// Options in the headings of a page's paragraphs: the line after each `.TP`.
fn documented(page: &str) -> BTreeSet<String> {
    let headings = page.lines().zip(page.lines().skip(1)).filter(|(macro_line, _)| *macro_line == ".TP");
    let words = headings.flat_map(|(_, heading)| heading.split([' ', ',', '"']));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn every_option_has_its_paragraph_and_every_paragraph_its_option() {
    let options = options_of(&command());
    assert!(options.contains("--publish") && options.contains("-p"), "{options:?}");
    assert_eq!(documented(&page()), options);
}

#[test]
fn every_other_command_has_a_page_that_tells_each_of_its_options() {
    let command = command();
    let others: Vec<_> = command.get_subcommands().filter(|command| has_own_page(command)).collect();
    assert!(!others.is_empty());
    for other in others {
        let name = other.get_name();
        let path = format!("{}/docs/man/netferry-{name}.1", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let page = page.replace("\\-", "-");
        assert_eq!(documented(&page), options_of(other), "{path}");
        assert!(page.contains(concat!("\"netferry ", env!("CARGO_PKG_VERSION"), "\"")), "{path}");
        let named = PAGE.contains(&format!(".BR netferry\\-{name} (1)"));
        assert!(named, "netferry.1 does not name the page of {name}");
    }
}

#[test]
fn page_of_the_slirp4netns_face_tells_each_of_its_options() {
    let page = include_str!("../../docs/man/netferry-slirp4netns.1").replace("\\-", "-");
    let words = ["slirp4netns", "--help"].map(std::ffi::OsString::from);
    let help = netferry::cli::parse(words).unwrap_err().to_string();
    let words = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(|line| line.split([' ', ',']));
    let options: BTreeSet<String> = words.filter(|word| word.starts_with('-')).map(str::to_owned).collect();
    assert!(options.contains("--enable-ipv6") && options.contains("-6"), "{options:?}");
    assert_eq!(documented(&page), options);
}

#[test]
fn page_is_of_this_version_and_tells_both_commands_and_every_exit_status() {
    let page = page();
    assert!(page.contains(concat!("\"netferry ", env!("CARGO_PKG_VERSION"), "\"")));
    for text in
        [".B netferry run\n", ".B netferry attach\n", ".B 0\n", ".B 1\n", ".B 2\n", ".B 126\n", ".B 127\n"]
    {
        assert!(page.contains(text), "{text:?}");
    }
}

#[test]
fn help_tells_what_each_command_is_for_in_words_and_not_in_references() {
    fn check(command: &clap::Command) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let name = command.get_name();
        assert!(!about.is_empty() && !about.contains("[`"), "{name}: {about:?}");
        command.get_subcommands().for_each(check);
    }
    check(&command());
}

//! The manual page says all that the help says.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../docs/man/netferry.1");

/// The page with its hyphens as they are typed.
fn page() -> String {
    PAGE.replace("\\-", "-")
}

/// Every long and short option of the command and its subcommands, as typed.
fn options() -> BTreeSet<String> {
    fn collect(command: &clap::Command, options: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            options.extend(argument.get_long().map(|long| format!("--{long}")));
            options.extend(argument.get_short().map(|short| format!("-{short}")));
        }
        command.get_subcommands().for_each(|command| collect(command, options));
    }
    let mut command = netferry::cli::command();
    command.build();
    let mut options = BTreeSet::new();
    collect(&command, &mut options);
    options
}

/// Options in the headings of a page's paragraphs: the line after each `.TP`.
fn documented(page: &str) -> BTreeSet<String> {
    let headings = page.lines().zip(page.lines().skip(1)).filter(|(macro_line, _)| *macro_line == ".TP");
    let words = headings.flat_map(|(_, heading)| heading.split([' ', ',', '"']));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn every_option_has_its_paragraph_and_every_paragraph_its_option() {
    let options = options();
    assert!(options.contains("--publish") && options.contains("-p"), "{options:?}");
    assert_eq!(documented(&page()), options);
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

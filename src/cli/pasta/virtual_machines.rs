//! What pasta does for virtual machines, and we do not: known by name, so that each is refused by name.

/// Options that mean something for virtual machines only.
#[derive(Debug, clap::Args)]
pub(super) struct VirtualMachines {
    #[arg(short = 's', long, hide = true)]
    socket: Option<String>,
    #[arg(short = 'F', long, hide = true)]
    fd: Option<String>,
    #[arg(long, hide = true)]
    vhost_user: bool,
    #[arg(long, hide = true)]
    print_capabilities: bool,
    #[arg(long, hide = true)]
    repair_path: Option<String>,
    #[arg(long, hide = true)]
    migrate_exit: bool,
    #[arg(long, hide = true)]
    migrate_no_linger: bool,
    #[arg(short = '1', long, hide = true)]
    one_off: bool,
}

impl VirtualMachines {
    /// The first of them that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--socket", self.socket.is_some()),
            ("--fd", self.fd.is_some()),
            ("--vhost-user", self.vhost_user),
            ("--print-capabilities", self.print_capabilities),
            ("--repair-path", self.repair_path.is_some()),
            ("--migrate-exit", self.migrate_exit),
            ("--migrate-no-linger", self.migrate_no_linger),
            ("--one-off", self.one_off),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }
}

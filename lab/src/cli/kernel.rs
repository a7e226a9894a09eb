//! Where something runs: on this kernel, or in the virtual machine.

use anyhow::{Result, bail};

use crate::doctor::kernel::{self, Ability};
use crate::vm::find;

/// What the caller wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// This kernel where it has what is needed, else the virtual machine.
    #[default]
    Auto,
    /// This kernel.
    Host,
    /// The virtual machine.
    Vm,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Vm,
}

impl Kernel {
    /// Decides. Where neither will do, this kernel is taken, so that what it lacks shows in the results; `say` is told.
    pub(crate) fn choose(self, needed: &[Ability], say: &mut dyn FnMut(&str)) -> Place {
        match self {
            Self::Host => Place::Host,
            Self::Vm => Place::Vm,
            Self::Auto => {
                let needed: Vec<Ability> =
                    Ability::ALWAYS.into_iter().chain(needed.iter().copied()).collect();
                let lacking = kernel::lacking(&needed);
                if lacking.is_empty() {
                    return Place::Host;
                }
                let names: Vec<String> = lacking
                    .iter()
                    .map(|finding| {
                        let why = finding.lacking.as_deref().unwrap_or("unknown");
                        format!("{} ({why})", finding.ability.name())
                    })
                    .collect();
                let names = names.join(", ");
                match vm_possible() {
                    Ok(()) => {
                        say(&format!("this kernel lacks {names}: using a virtual machine"));
                        Place::Vm
                    }
                    Err(error) => {
                        say(&format!("this kernel lacks {names}; and no virtual machine: {error:#}"));
                        Place::Host
                    }
                }
            }
        }
    }
}

/// Whether a virtual machine could be started; else what is missing for it.
pub(super) fn vm_possible() -> Result<()> {
    match [find::kernel().err(), find::qemu().err(), find::vng().err()].into_iter().flatten().next() {
        Some(missing) => bail!("{missing} (see `bascule-lab doctor`)"),
        None => Ok(()),
    }
}

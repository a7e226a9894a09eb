//! `report.html`: one page that needs nothing else, made of what a run left in its folder. [`gather`] reads the folder, [`frames`] and
//! [`logs`] turn frames and logs into columns and events, [`html`] makes the page; what it shows, and how, is in `page/`.

mod frames;
mod gather;
mod html;
mod logs;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

/// The page, in the folder of results.
pub(crate) const PAGE: &str = "report.html";

/// Makes the page of a folder of results anew.
///
/// # Errors
/// When it is no such folder, or something in it cannot be read, or the page cannot be written.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let data = gather::gather(folder)?;
    let page = html::page(&data)?;
    std::fs::write(folder.join(PAGE), page)
}

//! The child's process: it opens its points and answers questions until the dispatcher closes the pipe.

use super::Question;
use super::browser::{Answer, Browser};
use crate::api::error::ApiError;
use crate::io::limits;
use crate::mount::session::{receive, send};
use std::io::{self, BufReader};
use std::path::Path;

/// The hidden subcommand.
pub const COMMAND: &str = "browse-points";

/// Answers until there are no more questions.
pub fn serve(data_dir: &Path, points: &[String]) -> io::Result<()> {
    // A tree may be deep, and every folder on the way down is open.
    limits::raise_open_files();
    let (mut from, to) = (BufReader::new(io::stdin().lock()), io::stdout());
    let mut browser = match Browser::open(data_dir, points) {
        Ok(browser) => {
            send(to.lock(), &Ok::<(), ApiError>(()))?;
            browser
        }
        Err(error) => return send(to.lock(), &Err::<(), ApiError>(error.into())),
    };
    while let Some(question) = receive::<Question>(&mut from) {
        match browser.answer(question) {
            Ok(Answer::Partitions(page)) => send(to.lock(), &Ok::<_, ApiError>(page))?,
            Ok(Answer::Files(page)) => send(to.lock(), &Ok::<_, ApiError>(page))?,
            Ok(Answer::Found(page)) => send(to.lock(), &Ok::<_, ApiError>(page))?,
            Err(error) => send(to.lock(), &Err::<(), _>(error))?,
        }
    }
    Ok(())
}

//! Any command, by its name and arguments: one, or many pipelined.

use super::blocking::BlockingLink;
use super::error::Error;
use super::handle::Client;
use super::patience::Patience;
use super::replies::{refusal, unexpected};
use super::validate::check_command;
use crate::command;
use crate::command::reply::Reply;

impl Client {
    /// Asks anything: the command's name, then its arguments.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's words; those of the connection.
    pub fn call(&self, words: &[&[u8]], patience: Patience<'_>) -> Result<Reply, Error> {
        let mut replies = self.call_many(&[words], patience)?;
        match replies.pop() {
            Some(reply @ (Reply::Error(_) | Reply::Dropped(_))) => Err(unexpected(reply)),
            Some(reply) => Ok(reply),
            None => Err(Error::Protocol("no reply".into())),
        }
    }

    /// Asks many things, pipelined. Refusals are among the replies, and so are [`Reply::Dropped`] ones.
    ///
    /// # Errors
    /// Those of [`check_command`], before anything is sent; those of the connection.
    pub fn call_many(&self, commands: &[&[&[u8]]], patience: Patience<'_>) -> Result<Vec<Reply>, Error> {
        commands.iter().try_for_each(|words| check_command(words))?;
        // Names are looked up first: one that is no command's is refused here, in the server's words, and so is one
        // that the server does not know, being of another version.
        let server_knows = self.connection(patience)?.known;
        let numbers: Vec<Result<u16, Reply>> = commands
            .iter()
            .map(|words| {
                let name = words.first().copied().unwrap_or_default();
                match command::find(name) {
                    Some(spec) if server_knows.has(spec.number) => Ok(spec.number),
                    Some(spec) => Err(Reply::Error(command::unknown_to_server(spec.name).0)),
                    None => Err(Reply::Error(command::unknown(name).0)),
                }
            })
            .collect();
        let known: Vec<usize> = (0..commands.len()).filter(|&index| numbers[index].is_ok()).collect();
        let mut replies: Vec<Reply> = numbers.iter().map(|number| number.clone().err().unwrap_or(Reply::Nil)).collect();
        let request = |link: &mut BlockingLink, index: usize, patience: &mut Patience<'_>| match numbers[known[index]] {
            Ok(number) => link.push(number, &commands[known[index]][1..], patience),
            Err(_) => Ok(()),
        };
        self.pipeline(known.len(), request, patience, |index, reply| {
            match reply {
                // Not a refusal of this one.
                Reply::Error(message) if message.starts_with("SHUTDOWN ") => return Err(refusal(message)),
                reply => replies[known[index]] = reply,
            }
            Ok(())
        })?;
        Ok(replies)
    }
}

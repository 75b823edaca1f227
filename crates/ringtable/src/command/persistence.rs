//! Commands about what is on the disk.

use super::arguments::Arguments;
use super::context::Context;
use super::flow::Flow;
use super::host::{Host, LogState, SavingState};
use super::refusal::Refusal;
use super::task::Task;
use crate::sync::Arc;

/// `SAVE`: answers when there is a snapshot that was begun after the request came.
pub(super) fn save(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    let task = match context.task.take() {
        None => context.host.save(context.worker)?,
        Some(task) => task,
    };
    wait_for(context, task)
}

/// `BGSAVE [SCHEDULE]`: begins a snapshot, or says that there will be one.
pub(super) fn bgsave(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let schedules = match arguments.len() {
        0 => false,
        _ if arguments.get(0).eq_ignore_ascii_case(b"SCHEDULE") => true,
        _ => return Err(Refusal::err("syntax error")),
    };
    let is_busy = context.host.saving().is_some_and(|state| state.is_under_way);
    if is_busy && !schedules {
        return Err(Refusal::err("Background save already in progress"));
    }
    context.host.save(context.worker)?;
    context.reply.status(if is_busy { "Background saving scheduled" } else { "Background saving started" });
    Ok(())
}

/// `BGREWRITEAOF`: begins the log anew, with a snapshot.
pub(super) fn bgrewriteaof(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    if context.host.logging().is_none() {
        return Err(Refusal::err("this server has no log: start it with --data DIR --log"));
    }
    context.host.save(context.worker)?;
    context.reply.status("Background append only file rewriting started");
    Ok(())
}

/// `RING.DURABLE`: answers when all that was written before is on the disk.
pub(super) fn ring_durable(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    let task = match context.task.take() {
        None => context.host.flush_log(context.worker)?,
        Some(task) => task,
    };
    wait_for(context, task)
}

/// Answers with OK once a task is done, or with why it was not.
fn wait_for(context: &mut Context<'_>, task: Arc<Task>) -> Result<(), Refusal> {
    if let Some(outcome) = task.outcome() {
        outcome.map_err(|words| if words.starts_with("DISK ") { Refusal(words) } else { Refusal::err(words) })?;
        context.reply.ok();
        return Ok(());
    }
    // The progress of a request that has come again is not 0.
    context.progress = 1;
    context.task = Some(task);
    context.flow = Flow::Again;
    Ok(())
}

/// `LASTSAVE`: when the last snapshot was whole, in seconds since 1970; or else when the server was started.
pub(super) fn lastsave(context: &mut Context<'_>, _: Arguments<'_>) -> Result<(), Refusal> {
    let state = context.host.saving().unwrap_or_default();
    context.reply.integer(state.last_s as i64);
    Ok(())
}

/// `INFO [section ...]`: what there is of Redis' sections: that about persistence.
pub(super) fn info(context: &mut Context<'_>, arguments: Arguments<'_>) -> Result<(), Refusal> {
    let is_asked = |name: &[u8]| [&b"persistence"[..], b"default", b"all", b"everything"].contains(&name);
    let all = arguments.is_empty() || arguments.iter().any(|name| is_asked(&name.to_ascii_lowercase()));
    let text = if all { persistence(context.host) } else { String::new() };
    context.reply.bulk(text.as_bytes());
    Ok(())
}

fn persistence(host: &dyn Host) -> String {
    let SavingState { is_under_way, last_s, has_failed, last_took_ms, saved, failed, last_entries, last_size, .. } =
        host.saving().unwrap_or_default();
    let status = if has_failed { "err" } else { "ok" };
    let log = host.logging();
    let LogState { size, size_all, is_broken, rewrites, .. } = log.unwrap_or_default();
    let lines = [
        "# Persistence".to_owned(),
        "loading:0".to_owned(),
        format!("rdb_bgsave_in_progress:{}", u8::from(is_under_way)),
        format!("rdb_last_save_time:{last_s}"),
        format!("rdb_last_bgsave_status:{status}"),
        format!("rdb_last_bgsave_time_sec:{}", if saved + failed == 0 { -1 } else { (last_took_ms / 1_000) as i64 }),
        format!("rdb_saves:{saved}"),
        format!("ringtable_rdb_failures:{failed}"),
        format!("ringtable_rdb_last_entries:{last_entries}"),
        format!("ringtable_rdb_last_bytes:{last_size}"),
        format!("aof_enabled:{}", u8::from(log.is_some())),
        format!("aof_last_write_status:{}", if is_broken { "err" } else { "ok" }),
        format!("aof_rewrites:{rewrites}"),
        format!("aof_current_size:{size_all}"),
        format!("ringtable_aof_last_file_size:{size}"),
    ];
    lines.join("\r\n") + "\r\n"
}

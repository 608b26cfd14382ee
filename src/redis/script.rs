//! A Lua script and one call of it.

use deadpool_redis::redis::{self, Cmd, ToRedisArgs};

use super::meter::Meter;

/// A script by its text and its hash.
#[derive(Debug)]
pub struct Script {
    code: String,
    hash: String,
    meter: Meter,
}

impl Script {
    /// `name` is what its calls are measured as.
    pub fn new(name: &'static str, code: &str) -> Self {
        let hash = redis::Script::new(code).get_hash().to_owned();
        Self { code: code.to_owned(), hash, meter: Meter::new(name) }
    }

    pub fn prepare_invoke(&self) -> ScriptInvocation<'_> {
        ScriptInvocation { script: self, keys: Vec::new(), args: Vec::new() }
    }

    /// A call that touches this key.
    pub fn key(&self, key: impl ToRedisArgs) -> ScriptInvocation<'_> {
        let mut invocation = self.prepare_invoke();
        invocation.key(key);
        invocation
    }
}

/// One call. Its keys must share a hash tag: on a cluster, the first one says which server it is for.
#[derive(Debug)]
pub struct ScriptInvocation<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl ScriptInvocation<'_> {
    pub fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.script.meter
    }

    pub(super) fn first_key(&self) -> &[u8] {
        self.keys.first().map_or(&[], Vec::as_slice)
    }

    /// The call by hash, which costs 40 bytes instead of the text.
    pub(super) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    /// The call with its text, for a server that has forgotten the hash. Loading it first would be a second step,
    /// and the script could be forgotten again in between.
    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.script.code)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let bytes = self.keys.iter().chain(&self.args).map(Vec::len).sum::<usize>() + script.len() + 16;
        let mut command = Cmd::with_capacity(3 + self.keys.len() + self.args.len(), bytes);
        command.arg(name).arg(script).arg(self.keys.len()).arg(&*self.keys).arg(&*self.args);
        command
    }
}

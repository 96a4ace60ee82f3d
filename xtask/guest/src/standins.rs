//! Empty libraries in place of those that Debian's fio links but tests never use.
//!
//! fio is built with engines for Ceph, Gluster, RDMA and persistent memory. Their libraries, and
//! those that they load in turn, are 80 MB, more than all the rest of the image, and fio resolves
//! every symbol at its start. A stand-in has the same name, the same symbols in the same versions,
//! and nothing behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::files;
use crate::programs;

/// Libraries that fio really uses.
const KEPT: &[&str] = &["libnuma.so.1", "libz.so.1", "libm.so.6", "libaio.so.1", "libc.so.6"];

/// Replaces what is in `libraries`, the full list for `program`: libraries that the program names
/// itself become stand-ins made in `scratch`, those that only these would load are dropped, and
/// [`KEPT`] stay with what they load.
pub fn replace(
    program: &Path,
    libraries: &mut BTreeMap<String, PathBuf>,
    scratch: &Path,
) -> Result<()> {
    let wanted = undefined_symbols(program)?;
    let mut result = BTreeMap::new();
    for name in needed_libraries(program)? {
        let Some(path) = libraries.get(&name) else { continue };
        if KEPT.contains(&name.as_str()) {
            result.extend(programs::libraries_of(path)?);
            result.insert(name, path.clone());
        } else {
            let symbols = defined_symbols(path)?.intersection(&wanted).cloned().collect();
            let file = scratch.join(&name);
            build(&name, &symbols, &file)?;
            result.insert(name, file);
        }
    }
    let loaders = libraries.iter().filter(|(name, _)| name.starts_with('/'));
    result.extend(loaders.map(|(name, path)| (name.clone(), path.clone())));
    *libraries = result;
    Ok(())
}

/// Names of the libraries that a program asks for itself.
fn needed_libraries(program: &Path) -> Result<Vec<String>> {
    let text = files::output_of(files::program("readelf").arg("-d").arg(program))?;
    let names = text.lines().filter(|line| line.contains("(NEEDED)")).filter_map(|line| {
        let name = line.split_once('[')?.1;
        Some(name.split_once(']')?.0.to_owned())
    });
    Ok(names.collect())
}

fn undefined_symbols(path: &Path) -> Result<BTreeSet<String>> {
    symbols(path, "--undefined-only")
}

fn defined_symbols(path: &Path) -> Result<BTreeSet<String>> {
    symbols(path, "--defined-only")
}

/// Dynamic symbols as `name` or `name@version`; nm marks a default version with a second `@`.
fn symbols(path: &Path, which: &str) -> Result<BTreeSet<String>> {
    let mut command = files::program("nm");
    let text = files::output_of(command.args(["-D", "--with-symbol-versions", which]).arg(path))?;
    let last_words = text.lines().filter_map(|line| line.split_whitespace().last());
    Ok(last_words.map(|symbol| symbol.replace("@@", "@")).collect())
}

/// Assembler text that defines the symbols as functions that trap, and the linker's version map.
fn sources(symbols: &BTreeSet<String>) -> (String, String) {
    let mut code = String::from(".section .note.GNU-stack,\"\",@progbits\n.text\n");
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for symbol in symbols {
        let (name, version) = symbol.split_once('@').unwrap_or((symbol, ""));
        writeln!(code, ".globl {name}\n.type {name}, @function\n{name}: ud2")
            .expect("a String takes every write");
        versions.entry(version).or_default().push(name);
    }
    let mut map = String::new();
    for (version, names) in versions.iter().filter(|(version, _)| !version.is_empty()) {
        writeln!(map, "{version} {{ global: {}; }};", names.join("; "))
            .expect("a String takes every write");
    }
    (code, map)
}

fn build(name: &str, symbols: &BTreeSet<String>, file: &Path) -> Result<()> {
    let (code, map) = sources(symbols);
    let (code_file, map_file) = (file.with_extension("s"), file.with_extension("map"));
    files::write(&code_file, code)?;
    let mut compile = files::program("cc");
    compile.args(["-shared", "-nostdlib", "-o"]).arg(file).arg(&code_file);
    compile.arg(format!("-Wl,-soname,{name}"));
    if !map.is_empty() {
        files::write(&map_file, map)?;
        compile.arg(format!("-Wl,--version-script={}", map_file.display()));
    }
    files::output_of(&mut compile)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_grouped_by_version() {
        let symbols = ["a@V1", "b@V2", "c@V1", "plain"].map(str::to_owned).into();
        let (code, map) = sources(&symbols);
        assert_eq!(map, "V1 { global: a; c; };\nV2 { global: b; };\n");
        assert!(code.contains("plain: ud2"));
    }
}

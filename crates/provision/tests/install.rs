//! Real installations. They fetch about 150 MB from the package indexes, so they run on demand:
//! `cargo test -p provision -- --ignored`.

use std::fs;

use provision::{Tool, Tools};

#[test]
#[ignore = "fetches from the package indexes"]
fn two_at_once_install_everything_and_a_third_only_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let tools = Tools::in_directory(folder.path());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let _handle = scope.spawn(|| {
                for tool in Tool::ALL {
                    let found = tools.install(tool, &mut |_| {}).unwrap();
                    assert!(found.program(tool.program()).is_file(), "{found:?}");
                }
            });
        }
    });
    let mut steps = Vec::new();
    for tool in Tool::ALL {
        let _found = tools
            .install(tool, &mut |step| steps.push(step.to_owned()))
            .unwrap();
    }
    assert_eq!(steps, [""; 0], "nothing is left to do");
    let left = fs::read_dir(folder.path()).unwrap().filter_map(Result::ok);
    let hidden: Vec<_> = left
        .filter(|e| e.file_name().to_string_lossy().starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

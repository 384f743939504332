//! Single files of a backup, before a restore.

use super::{EntryPath, Files, back_up, backup_id, in_memory, main_of};

#[tokio::test]
async fn only_what_is_asked_for_and_small_comes() {
    let branch = main_of(&in_memory());
    let control = [vec![1; 40], vec![0; 8000]].concat();
    let files: Files = [
        ("postgresql.conf", vec![b'x'; 3000]),
        ("pg_control", control.clone()),
        ("16384", vec![7; 100_000]),
        ("empty", Vec::new()),
    ]
    .into_iter()
    .map(|(path, content)| (EntryPath::data(path), (0o600, Some(content))))
    .collect();
    let manifest = back_up(&branch, backup_id(1), &files).await;
    let paths = ["postgresql.conf", "pg_control", "16384", "empty", "none"];
    let read = branch
        .reader()
        .backed_up_files(&manifest, &paths, 10_000)
        .await
        .unwrap();
    let sizes: Vec<(&str, usize)> = read
        .iter()
        .map(|(path, content)| (path.as_str(), content.len()))
        .collect();
    let expected = [
        ("empty", 0),
        ("pg_control", 8040),
        ("postgresql.conf", 3000),
    ];
    assert_eq!(sizes, expected);
    assert_eq!(read["pg_control"], control);
}

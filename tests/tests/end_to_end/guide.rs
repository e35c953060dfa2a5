//! What the docs show is so: their files are written and their commands are
//! run, in their order, and say what the docs say they say.

use std::path::Path;

use watchword_tests::{Mesh, MeshFile, shell, wait_until};

/// A piece of a page.
enum Step {
    /// A YAML block that begins with `# FILE`.
    File { name: String, text: String },
    /// A line after `$`, and what it prints: `...` is any number of lines.
    Command { line: String, prints: Vec<String> },
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let kind = match line.strip_prefix("```") {
            Some(kind) if !kind.is_empty() => kind,
            _ => continue,
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "yaml" => {
                if let Some(name) = block.first().and_then(|first| first.strip_prefix("# ")) {
                    let text = block[1..].join("\n") + "\n";
                    steps.push(Step::File {
                        name: name.to_owned(),
                        text,
                    });
                }
            }
            "console" => {
                for line in block {
                    match (line.strip_prefix("$ "), steps.last_mut()) {
                        (Some(command), _) => steps.push(Step::Command {
                            line: command.to_owned(),
                            prints: Vec::new(),
                        }),
                        (None, Some(Step::Command { prints, .. })) => prints.push(line.to_owned()),
                        (None, _) => panic!("{line:?} is printed by no command"),
                    }
                }
            }
            _ => {}
        }
    }
    steps
}

/// Whether `said` is what the page has, line by line.
fn is_as_shown(said: &[&str], shown: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((first, rest)) if first == "..." => (0..=said.len()).any(|skip| is_as_shown(&said[skip..], rest)),
        Some((first, rest)) => said.first().is_some_and(|line| is_same(line, first)) && is_as_shown(&said[1..], rest),
    }
}

/// Word by word, since columns are as wide as they must be; a time that is left
/// is another one by now.
fn is_same(said: &str, shown: &str) -> bool {
    let is_time = |word: &str| {
        let number = word.strip_suffix(['h', 'm', 's']);
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let words = said.split_whitespace().zip(shown.split_whitespace());
    said.split_whitespace().count() == shown.split_whitespace().count()
        && words
            .into_iter()
            .all(|(said, shown)| said == shown || is_time(said) && is_time(shown))
}

/// A page that is followed in a folder of its own.
struct Reader {
    /// What the page calls the mesh, if it gives it a name.
    name: Option<&'static str>,
    /// Before `watchword up`, after it.
    file: Option<MeshFile>,
    mesh: Option<Mesh>,
}

impl Reader {
    fn folder(&self) -> &Path {
        match (&self.file, &self.mesh) {
            (Some(file), _) => file.folder(),
            (None, Some(mesh)) => mesh.file().folder(),
            (None, None) => panic!("there is a mesh or the file for it"),
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Meshes of other tests run beside this one.
        let own = |file: &MeshFile| match self.name {
            Some(name) => text.replace(&format!("name: {name}\n"), &format!("name: {}\n", file.name())),
            None => format!("name: {}\n{text}", file.name()),
        };
        let text = match &self.file {
            Some(file) if name == "mesh.yaml" => own(file),
            _ => text.to_owned(),
        };
        std::fs::write(path, text).unwrap();
    }

    /// What a command prints, on both outputs.
    fn run(&self, line: &str) -> String {
        let name = self.mesh.as_ref().map(|mesh| mesh.file().name().to_owned());
        let name = name.unwrap_or_default();
        let line = line
            .replace("watchword exec ", &format!("watchword exec --mesh {name} "))
            .replace("watchword status", &format!("watchword status --mesh {name}"));
        let mut shell = shell(&format!("{{ {line}; }} 2>&1"), self.folder()).unwrap();
        let finished = shell.output().unwrap();
        let said = String::from_utf8(finished.stdout).unwrap();
        match self.name {
            Some(shown) => said.replace(&name, shown),
            None => said,
        }
    }

    fn follow(mut self, page: &str) {
        for step in steps(page) {
            match step {
                Step::File { name, text } => self.write(&name, &text),
                Step::Command { line, .. } if line.starts_with("watchword up ") => {
                    self.mesh = Some(self.file.take().unwrap().up().unwrap());
                }
                Step::Command { line, prints } => {
                    let mut said = String::new();
                    // A change of policies takes a moment to be in force.
                    let as_shown = wait_until("what the page shows", || {
                        said = self.run(&line);
                        is_as_shown(&said.lines().collect::<Vec<_>>(), &prints)
                    });
                    assert!(
                        as_shown.is_ok(),
                        "$ {line}\n{said}\n--- the page says:\n{}",
                        prints.join("\n")
                    );
                }
            }
        }
    }
}

#[test]
fn the_guide_from_audit_to_enforcement_is_as_it_says() {
    let page = include_str!("../../../docs/policy-guide.md");
    let file = MeshFile::new("web: {run: [sleep, infinity]}", "").unwrap();
    let reader = Reader {
        name: None,
        file: Some(file),
        mesh: None,
    };
    reader.follow(page);
}

#[test]
fn the_readme_leads_to_a_mesh_of_ones_own() {
    let page = include_str!("../../../README.md");
    let file = MeshFile::new("web: {run: [sleep, infinity]}", "").unwrap();
    let reader = Reader {
        name: Some("shop"),
        file: Some(file),
        mesh: None,
    };
    reader.follow(page);
}

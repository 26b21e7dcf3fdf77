//! The merge: layers applied from the lowest to the uppermost give one tree. Entries in, tree out; no input or
//! output happens here, so it can be compared with a naive reference.

use std::collections::{BTreeMap, HashMap};

use std::sync::Arc;

use super::{
    Attributes, DEEPEST, Entry, Failure, OPAQUE_MARK, Path, Result, What, is_opaque_mark, split_path,
};
use crate::owner::UNSAID;

/// Links followed while resolving the parents of one path.
const MOST_LINKS: u32 = 255;

/// Number of a node of the tree.
pub type NodeId = usize;
pub const ROOT: NodeId = 0;

/// A file of the tree; several names may lead to it.
#[derive(Debug)]
pub struct Node {
    pub attributes: Attributes,
    pub what: What,
    /// Of a directory: its names, sorted by bytes.
    pub children: BTreeMap<Box<[u8]>, Name>,
    /// How many names lead to it, once [`Tree::reachable`] has counted them.
    pub links: u32,
}

/// What a name leads to, and which layer put it there.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub id: NodeId,
    layer: u32,
}

#[derive(Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
    /// The layer being applied.
    layer: u32,
    how: Applied,
}

/// How a layer is applied over those below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applied {
    /// An entry of whose owner nothing is said (`UNSAID`) has that of what it takes the place of, as whoever made the
    /// layer could not set any.
    pub owners_below: bool,
    /// Whose it is where there is nothing.
    pub maker: (u32, u32),
    /// The whole is to be a layer again: it hides of what will lie below just what its layers do together.
    pub marks_kept: bool,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

/// Where a path leads once its parents are resolved.
struct Place {
    parent: NodeId,
    name: Box<[u8]>,
}

impl Tree {
    pub fn new() -> Tree {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        let root = Node { attributes, what: What::Directory, children: BTreeMap::new(), links: 1 };
        Tree { nodes: vec![root], layer: 0, how: Applied::default() }
    }

    /// Applies one layer over what is there. What it removes is what the lower layers had, wherever in the layer the mark
    /// stands, so marks come first; the rest follows in its own order, and among entries of the same path the last counts.
    pub fn apply(&mut self, layer: Vec<Entry>) -> Result<()> {
        self.apply_with(layer, Applied::default())
    }

    pub fn apply_with(&mut self, layer: Vec<Entry>, how: Applied) -> Result<()> {
        self.layer += 1;
        self.how = how;
        let (marks, entries): (Vec<Entry>, Vec<Entry>) =
            layer.into_iter().partition(|entry| matches!(entry.what, What::Whiteout | What::Opaque));
        // Only marks can take a link's target away: most layers have none, and nothing is looked up.
        let mut linked = if marks.is_empty() { HashMap::new() } else { self.linked(&entries) };
        for mark in &marks {
            match mark.what {
                What::Whiteout => self.remove(&mark.path),
                _ => self.empty(&mark.path),
            }
        }
        linked.retain(|target, _| !matches!(self.find(target), Ok(Some(_))));
        for entry in entries {
            let path = entry.path.clone();
            self.put(entry, &linked).map_err(|failure| failure.at(&path))?;
        }
        Ok(())
    }

    /// What the lower layers have at the targets of a layer's hard links: a layer may link to a file and remove its old name.
    fn linked(&mut self, layer: &[Entry]) -> HashMap<Path, NodeId> {
        let mut found = HashMap::new();
        for entry in layer {
            if let What::HardLink { target } = &entry.what
                && let Ok(Some(id)) = self.find(target)
            {
                found.insert(target.clone(), id);
            }
        }
        found
    }

    /// What a path leads to, its last component not followed.
    fn find(&mut self, path: &[u8]) -> Result<Option<NodeId>> {
        Ok(self.place(path, None)?.and_then(|place| self.child(place.parent, &place.name)))
    }

    fn is_directory(&self, id: NodeId) -> bool {
        self.nodes[id].what == What::Directory
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.nodes[parent].children.get(name).map(|name| name.id)
    }

    /// Walks a directory path from the root, following links inside the tree. `make`: attributes' time for
    /// directories that are missing on the way; without it they end the walk.
    fn walk(&mut self, path: &[u8], make: Option<u32>) -> Result<Option<NodeId>> {
        let mut left: Vec<Box<[u8]>> = components(path);
        let mut stack = vec![ROOT];
        let mut links = 0;
        while let Some(name) = left.pop() {
            let at = *stack.last().unwrap_or(&ROOT);
            if stack.len() > DEEPEST {
                return Err(Failure::corrupt("the tree is deeper than 1000 directories"));
            }
            if &*name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some(next) = self.child(at, &name) else {
                let Some(mtime) = make else { return Ok(None) };
                let attributes = Attributes { mode: 0o755, mtime, ..Attributes::default() };
                let id = self.insert(at, name, attributes, What::Directory);
                stack.push(id);
                continue;
            };
            match &self.nodes[next].what {
                What::Directory => stack.push(next),
                What::Symlink { target } => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Failure::corrupt("too many links on the way to it"));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    left.extend(components(target));
                }
                _ if make.is_some() => {
                    return Err(Failure::corrupt("a file stands where it needs a directory"));
                }
                _ => return Ok(None),
            }
        }
        Ok(stack.pop())
    }

    fn insert(&mut self, parent: NodeId, name: Box<[u8]>, attributes: Attributes, what: What) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node { attributes, what, children: BTreeMap::new(), links: 1 });
        self.nodes[parent].children.insert(name, Name { id, layer: self.layer });
        id
    }

    fn place(&mut self, path: &[u8], make: Option<u32>) -> Result<Option<Place>> {
        let (parent, name) = split_path(path);
        let parent = self.walk(parent, make)?;
        Ok(parent.map(|parent| Place { parent, name: name.into() }))
    }

    fn detach(&mut self, place: &Place) {
        self.nodes[place.parent].children.remove(&place.name);
    }

    fn remove(&mut self, path: &[u8]) {
        if let Ok(Some(place)) = self.place(path, None) {
            self.detach(&place);
        }
    }

    fn empty(&mut self, path: &[u8]) {
        if let Ok(Some(directory)) = self.walk(path, None) {
            self.nodes[directory].children.clear();
        }
    }

    /// linked: targets of hard links that the layer's marks removed.
    fn put(&mut self, mut entry: Entry, linked: &HashMap<Path, NodeId>) -> Result<()> {
        if entry.path.is_empty() {
            if self.how.owners_below {
                self.take_owner(&mut entry.attributes, Some(ROOT));
            }
            self.nodes[ROOT].attributes = entry.attributes;
            return Ok(());
        }
        let Some(place) = self.place(&entry.path, Some(entry.attributes.mtime))? else { return Ok(()) };
        let existing = self.child(place.parent, &place.name);
        if self.how.owners_below {
            let name = self.nodes[place.parent].children.get(&place.name);
            let below = name.filter(|name| name.layer != self.layer).map(|name| name.id);
            self.take_owner(&mut entry.attributes, below);
        }
        match (existing, entry.what) {
            (Some(old), What::Directory) if self.is_directory(old) => {
                if self.how.marks_kept && is_opaque(&self.nodes[old].attributes) {
                    make_opaque(&mut entry.attributes);
                }
                self.nodes[old].attributes = entry.attributes;
                self.nodes[place.parent].children.insert(place.name, Name { id: old, layer: self.layer });
            }
            (_, What::HardLink { target }) => {
                let source = self.find(&target)?.or_else(|| linked.get(&target).copied());
                let Some(source) = source.filter(|id| !self.is_directory(*id)) else {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    return Err(Failure::corrupt(format!(
                        "the hard link's target `{target}` is not a file of the image"
                    )));
                };
                if existing == Some(source) {
                    return Ok(());
                }
                self.detach(&place);
                let name = Name { id: source, layer: self.layer };
                self.nodes[place.parent].children.insert(place.name, name);
            }
            (_, what) => {
                if self.how.marks_kept && existing.is_some() && what == What::Directory {
                    // It took the place of a file, or of a removal, which ended what lies below.
                    make_opaque(&mut entry.attributes);
                }
                self.detach(&place);
                self.insert(place.parent, place.name, entry.attributes, what);
            }
        }
        Ok(())
    }

    /// Whatever the layer does not say of an owner is that of `below`, or of who made the layer.
    fn take_owner(&self, attributes: &mut Attributes, below: Option<NodeId>) {
        let (uid, gid) =
            below.map(|id| &self.nodes[id].attributes).map_or(self.how.maker, |found| (found.uid, found.gid));
        for (part, other) in [(&mut attributes.uid, uid), (&mut attributes.gid, gid)] {
            if *part == UNSAID {
                *part = other;
            }
        }
    }

    /// Removes paths with everything below.
    pub fn exclude(&mut self, paths: &[Path]) {
        for path in paths {
            let (parent, name) = split_path(path);
            // Literally: what a link leads to is not what was named.
            let mut at = Some(ROOT);
            for component in parent.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
                at = at.and_then(|id| self.child(id, component));
            }
            if let Some(parent) = at.filter(|id| self.is_directory(*id)) {
                self.detach(&Place { parent, name: name.into() });
            }
        }
    }

    /// Numbers of all files that can be reached, each once: a directory before what is in it, names in order. Counts
    /// the names of each on the way.
    pub fn reachable(&mut self) -> Vec<NodeId> {
        let mut links = vec![0u32; self.nodes.len()];
        let mut order = Vec::new();
        let mut queue = vec![ROOT];
        links[ROOT] = 1;
        order.push(ROOT);
        while let Some(directory) = queue.pop() {
            let before = queue.len();
            for &Name { id: child, .. } in self.nodes[directory].children.values() {
                links[child] += 1;
                if links[child] == 1 {
                    order.push(child);
                    if self.is_directory(child) {
                        queue.push(child);
                    }
                }
            }
            queue[before..].reverse();
        }
        for (node, links) in self.nodes.iter_mut().zip(links) {
            node.links = links;
        }
        order
    }
}

fn is_opaque(directory: &Attributes) -> bool {
    directory.xattrs.as_ref().is_some_and(|set| set.iter().any(|(name, value)| is_opaque_mark(name, value)))
}

fn make_opaque(directory: &mut Attributes) {
    if !is_opaque(directory) {
        let mut set = directory.xattrs.as_deref().cloned().unwrap_or_default();
        set.push((OPAQUE_MARK.to_vec(), b"y".to_vec()));
        set.sort();
        directory.xattrs = Some(Arc::new(set));
    }
}

/// Components of a path, the last first; empty ones and `.` left out.
fn components(path: &[u8]) -> Vec<Box<[u8]>> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".").map(Into::into).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::super::Content;
    use super::*;

    fn entry(path: &str, what: What) -> Entry {
        let attributes = Attributes { mode: 0o644, mtime: 7, ..Attributes::default() };
        Entry { path: path.into(), attributes, what }
    }

    fn file(path: &str, number: u32) -> Entry {
        entry(path, What::File { size: 1, content: Content::Written(number) })
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, What::Symlink { target: target.into() })
    }

    fn names(tree: &Tree) -> Vec<String> {
        let mut found = Vec::new();
        let mut queue = vec![(ROOT, String::new())];
        while let Some((id, path)) = queue.pop() {
            for (name, &Name { id: child, .. }) in &tree.nodes[id].children {
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                found.push(path.clone());
                queue.push((child, path));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_whiteout_hides_lower_layers_only_wherever_it_stands() {
        let mut tree = Tree::new();
        tree.apply(vec![file("a", 0), file("d/x", 1), file("d/y", 2)]).unwrap();
        tree.apply(vec![file("a", 3), entry("a", What::Whiteout), file("d/z", 4), entry("d", What::Opaque)])
            .unwrap();
        assert_eq!(names(&tree), ["/a", "/d", "/d/z"]);
        tree.apply(vec![file("d/z/below", 5), entry("d", What::Opaque)]).unwrap();
        assert_eq!(names(&tree), ["/a", "/d", "/d/z", "/d/z/below"]);
    }

    #[test]
    fn parents_that_are_links_are_resolved_inside_the_root() {
        let mut tree = Tree::new();
        tree.apply(vec![
            entry("usr/lib", What::Directory),
            link("lib", "/usr/lib"),
            link("up", "../../../usr"),
        ])
        .unwrap();
        tree.apply(vec![file("lib/a", 0), file("up/b", 1)]).unwrap();
        assert_eq!(names(&tree), ["/lib", "/up", "/usr", "/usr/b", "/usr/lib", "/usr/lib/a"]);
        assert!(tree.apply(vec![link("loop", "loop"), file("loop/x", 0)]).is_err());
    }

    #[test]
    fn hard_links_reach_into_lower_layers_and_outlive_their_target() {
        let mut tree = Tree::new();
        tree.apply(vec![file("a", 0)]).unwrap();
        tree.apply(vec![entry("b", What::HardLink { target: b"a".to_vec() })]).unwrap();
        tree.apply(vec![entry("c", What::HardLink { target: b"a".to_vec() }), entry("a", What::Whiteout)])
            .unwrap();
        tree.apply(vec![entry("c", What::Whiteout)]).unwrap();
        assert_eq!(names(&tree), ["/b"]);
        let id = tree.nodes[ROOT].children[&b"b"[..]].id;
        tree.reachable();
        assert_eq!(tree.nodes[id].links, 1);
        assert!(tree.apply(vec![entry("c", What::HardLink { target: b"a".to_vec() })]).is_err());
    }

    #[test]
    fn anything_but_two_directories_is_replaced() {
        let mut tree = Tree::new();
        tree.apply(vec![file("d/x", 0), file("f", 1), link("l", "d")]).unwrap();
        tree.apply(vec![file("d", 2), entry("f", What::Directory), entry("l", What::Directory)]).unwrap();
        assert_eq!(names(&tree), ["/d", "/f", "/l"]);
        assert!(tree.nodes[tree.nodes[ROOT].children[&b"l"[..]].id].what == What::Directory);
    }

    #[test]
    fn names_that_go_with_their_directory_do_not_count_as_links() {
        let mut tree = Tree::new();
        tree.apply(vec![file("d/x", 0), entry("l", What::HardLink { target: b"d/x".to_vec() })]).unwrap();
        tree.apply(vec![file("d", 1)]).unwrap();
        tree.reachable();
        assert_eq!(tree.nodes[tree.nodes[ROOT].children[&b"l"[..]].id].links, 1);
    }

    #[test]
    fn a_tree_cannot_be_made_deeper_than_the_limit_by_links_either() {
        let mut tree = Tree::new();
        let deep = "d/".repeat(600);
        tree.apply(vec![file(&format!("{deep}f"), 0), link("l", &deep), file("l/x", 1)]).unwrap();
        assert!(tree.apply(vec![file(&format!("l/{deep}f"), 0)]).is_err());
        assert!(tree.apply(vec![file(&format!("{}f", "e/".repeat(1001)), 0)]).is_err());
    }

    #[test]
    fn a_layer_without_owners_takes_those_of_what_it_replaces() {
        let owned = |path: &str, uid: u32, what: What| {
            let attributes = Attributes { uid, gid: uid.saturating_add(1), ..Attributes::default() };
            Entry { path: path.into(), attributes, what }
        };
        let content = |number| What::File { size: 1, content: Content::Written(number) };
        let mut tree = Tree::new();
        tree.apply(vec![owned("d", 7, What::Directory), owned("d/f", 8, content(0))]).unwrap();
        let upper = || {
            vec![
                owned("d", UNSAID, What::Directory),
                owned("d/f", UNSAID, content(1)),
                owned("d/new", UNSAID, content(2)),
                owned("d/given", 33, content(3)),
            ]
        };
        tree.apply_with(upper(), Applied { owners_below: true, ..Applied::default() }).unwrap();
        let owner = |tree: &Tree, path: &[&[u8]]| {
            let id = path.iter().fold(ROOT, |at, name| tree.nodes[at].children[*name].id);
            (tree.nodes[id].attributes.uid, tree.nodes[id].attributes.gid)
        };
        assert_eq!(owner(&tree, &[b"d"]), (7, 8));
        assert_eq!(owner(&tree, &[b"d", b"f"]), (8, 9));
        assert_eq!(owner(&tree, &[b"d", b"new"]), (0, 0));
        assert_eq!(owner(&tree, &[b"d", b"given"]), (33, 34));
        tree.apply(vec![owned("d/f", 0, content(1))]).unwrap();
        assert_eq!(owner(&tree, &[b"d", b"f"]), (0, 1));
    }

    #[test]
    fn layers_that_are_one_layer_hide_what_they_hid_together() {
        let kept = Applied { marks_kept: true, ..Applied::default() };
        let gone = |path: &str| entry(path, What::Device { kind: 0, number: 0 });
        let opaque = |path: &str| {
            let mut directory = entry(path, What::Directory);
            make_opaque(&mut directory.attributes);
            [entry(path, What::Opaque), directory]
        };
        let mut tree = Tree::new();
        tree.apply_with(vec![file("d/x", 0), gone("e"), file("f", 1), file("g", 2)], kept).unwrap();
        let [mark, directory] = opaque("d");
        let put = |path| entry(path, What::Directory);
        tree.apply_with(vec![mark, directory, file("d/y", 3), put("e"), put("f"), gone("g")], kept).unwrap();
        tree.apply_with(vec![put("d"), file("d/z", 4), put("h")], kept).unwrap();
        assert_eq!(names(&tree), ["/d", "/d/y", "/d/z", "/e", "/f", "/g", "/h"]);
        let at = |name: &[u8]| &tree.nodes[tree.nodes[ROOT].children[name].id];
        let marked: Vec<bool> =
            [&b"d"[..], b"e", b"f", b"h"].map(|name| is_opaque(&at(name).attributes)).into();
        assert_eq!(marked, [true, true, true, false]);
        assert_eq!(at(b"g").what, What::Device { kind: 0, number: 0 });
    }

    #[test]
    fn exclusions_are_literal() {
        let mut tree = Tree::new();
        tree.apply(vec![file("d/x", 0), link("l", "d"), file("e", 1)]).unwrap();
        tree.exclude(&[b"l/x".to_vec(), b"e".to_vec(), b"none/at/all".to_vec()]);
        assert_eq!(names(&tree), ["/d", "/d/x", "/l"]);
    }
}

//! Finds in a file the places where its mutants can stand: whole expressions, bodies and arms.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Mutant;

/// How mutants stand at a site.
pub enum Kind {
    /// An expression that each mutant has in another form.
    Instead,
    /// The first statement of a body, before which each mutant returns.
    Return,
    /// The end of an arm's pattern, behind which a guard puts the arm out of use.
    Guard,
}

/// A place of the original, and what is to stand there.
pub struct Site {
    /// Bytes of the original that it covers; empty but for [`Kind::Instead`].
    pub range: Range<usize>,
    /// How mutants stand there.
    pub kind: Kind,
    /// Their numbers and texts.
    pub mutants: Vec<(usize, String)>,
}

/// What was found of a file.
pub struct Found {
    /// Where mutants can stand.
    pub sites: Vec<Site>,
    /// The others, and why.
    pub refused: Vec<(usize, &'static str)>,
}

/// What a switch cannot stand in: constants are computed before there is one.
const CONSTANT: &str = "constant";
/// A mutant that is no Rust.
const SYNTAX: &str = "unviable";

/// Finds the sites of `mutants` in `text`, which is the whole file that they are of.
pub fn find(text: &str, mutants: Vec<Mutant>) -> syn::Result<Found> {
    let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let byte = |(line, column): (usize, usize)| {
        let line = &text[lines[line - 1]..];
        let inside = line.char_indices().nth(column - 1).map_or(line.len(), |(at, _)| at);
        text.len() - line.len() + inside
    };
    let mut places = Places { byte: &|at| byte((at.line, at.column + 1)), found: BTreeMap::new(), constant: 0 };
    places.visit_file(&syn::parse_file(text)?);

    let mut sites: BTreeMap<(usize, usize), Site> = BTreeMap::new();
    let mut refused = Vec::new();
    for mutant in mutants {
        let (start, end) = (byte(mutant.start), byte(mutant.end));
        // What a guard begins with may be an expression with mutants of its own.
        let place = match mutant.genre.as_str() {
            "MatchArmGuard" => Some((false, start..end)),
            _ => places.found.get(&start).cloned(),
        };
        let Some((constant, range)) = place else {
            refused.push((mutant.number, "apart"));
            continue;
        };
        if constant {
            refused.push((mutant.number, CONSTANT));
            continue;
        }
        let (kind, range, new) = match mutant.genre.as_str() {
            "FnValue" => (Kind::Return, start..start, mutant.replacement.clone()),
            "MatchArm" => (Kind::Guard, range.end..range.end, String::new()),
            _ => {
                let new = [&text[range.start..start], &mutant.replacement, &text[end..range.end]].concat();
                (Kind::Instead, range, new)
            }
        };
        if !matches!(kind, Kind::Guard) && syn::parse_str::<syn::Expr>(&new).is_err() {
            refused.push((mutant.number, SYNTAX));
            continue;
        }
        let site = sites.entry((range.start, range.end)).or_insert(Site { range, kind, mutants: Vec::new() });
        site.mutants.push((mutant.number, new));
    }
    Ok(Found { sites: sites.into_values().collect(), refused })
}

/// Where a mutant that begins at some byte can stand.
struct Places<'a> {
    byte: &'a dyn Fn(LineColumn) -> usize,
    /// By the byte at which cargo-mutants says that the mutant begins: whether that is in a constant, and the range of
    /// the whole expression or pattern.
    found: BTreeMap<usize, (bool, Range<usize>)>,
    /// How many constants we are in.
    constant: usize,
}

impl Places<'_> {
    fn put(&mut self, start: Span, whole: Span) {
        let range = (self.byte)(whole.start())..(self.byte)(whole.end());
        self.found.insert((self.byte)(start.start()), (self.constant > 0, range));
    }

    fn body(&mut self, block: &syn::Block, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        self.constant += usize::from(signature.constness.is_some());
        if let Some(first) = block.stmts.first() {
            self.put(first.span(), first.span());
        }
        visit(self);
        self.constant -= usize::from(signature.constness.is_some());
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }
}

impl<'a> Visit<'a> for Places<'_> {
    fn visit_item_fn(&mut self, node: &'a syn::ItemFn) {
        self.body(&node.block, &node.sig, |this| visit::visit_item_fn(this, node));
    }

    fn visit_impl_item_fn(&mut self, node: &'a syn::ImplItemFn) {
        self.body(&node.block, &node.sig, |this| visit::visit_impl_item_fn(this, node));
    }

    fn visit_trait_item_fn(&mut self, node: &'a syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.body(block, &node.sig, |this| visit::visit_trait_item_fn(this, node));
        }
    }

    fn visit_expr_binary(&mut self, node: &'a syn::ExprBinary) {
        self.put(node.op.span(), node.span());
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'a syn::ExprUnary) {
        self.put(node.op.span(), node.span());
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'a syn::ExprStruct) {
        for field in &node.fields {
            if node.rest.is_some() {
                self.put(field.span(), node.span());
            }
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_arm(&mut self, node: &'a syn::Arm) {
        self.put(node.span(), node.pat.span());
        visit::visit_arm(self, node);
    }

    fn visit_item_const(&mut self, node: &'a syn::ItemConst) {
        self.constant(|this| visit::visit_item_const(this, node));
    }

    fn visit_impl_item_const(&mut self, node: &'a syn::ImplItemConst) {
        self.constant(|this| visit::visit_impl_item_const(this, node));
    }

    fn visit_item_static(&mut self, node: &'a syn::ItemStatic) {
        self.constant(|this| visit::visit_item_static(this, node));
    }

    fn visit_expr_repeat(&mut self, node: &'a syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.constant(|this| this.visit_expr(&node.len));
    }

    fn visit_type_array(&mut self, node: &'a syn::TypeArray) {
        self.constant(|this| visit::visit_type_array(this, node));
    }

    fn visit_variant(&mut self, node: &'a syn::Variant) {
        self.constant(|this| visit::visit_variant(this, node));
    }
}

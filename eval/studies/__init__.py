"""Studies: scientific questions that one command answers, each a module with a `Config` and `run(config) -> Findings`.

A new study is one file and one line here; see `eval.studies.study`.
"""

STUDIES = {
    "synthetic_latent": "eval.studies.synthetic_latent",
    "hippocampus": "eval.studies.hippocampus",
    "allen_frames": "eval.studies.allen_frames",
    "label_sweeps": "eval.studies.label_sweeps",
    "cross_subject": "eval.studies.cross_subject",
    "beside_cebra": "eval.studies.beside_cebra",
    "animal_alignment": "eval.studies.animal_alignment",
    "planted_dynamics": "eval.studies.planted_dynamics",
    "planted_units": "eval.studies.planted_units",
    "unit_identity": "eval.studies.unit_identity",
    "scaling": "eval.studies.scaling",
}

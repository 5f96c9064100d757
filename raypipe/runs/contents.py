"""The contents of a run directory: the names of its files and folders, and which step they are of.

The columns of the tables are in `raypipe.schema`; who writes what, in docs/architecture.md.
"""

# What every step writes.
RUN_FILE = "run.json"  # Config, versions, encoder, counts, seconds a step, and what implemented each stage.
LOG_FILE = "log.jsonl"  # A line for each step that ended or broke off, each commit, and each loss of a worker.

# What embedding writes.
PLAN_FOLDER = "plan"  # What has been probed since the plan was settled.
PLAN_FILE = "plan.parquet"  # A row a segment.
EMBEDDINGS_FOLDER = "embeddings"  # A row a clip.
FRAMES_FOLDER = "frames"  # Small pictures of some clips: beside each file of ``embeddings/`` one of its name.
VIDEOS_FILE = "videos.parquet"  # A row for every video found.

# What belongs to the embeddings, whatever the clustering: it is kept until the run is embedded anew.
SIGNALS_FOLDER = "signals"  # The signals that are joined to the clips, a row a video.
LEARNING_FOLDER = "learning"  # What learning of trajectories goes on from after a kill.
CHECKPOINT_FILE = "learning/checkpoint.npz"  # What was learned, which further clusterings take too.
DATASET_FAULTS_FILE = "dataset_faults.json"  # What is wrong with the dataset that the videos are of.
SWEEP_FILE = "sweep.json"  # The fits of many numbers of clusters.

# What clustering writes, and what is made of its clusters.
TRAJECTORIES_FOLDER = "trajectories"  # A row for each ok video: its path, the reduced one, and that on the map.
CLUSTERS_FILE = "clusters.parquet"  # A row for each ok video: cluster, distance, outlier score, place on the map.
BARYCENTERS_FILE = "barycenters.parquet"  # A row a cluster: the path in its middle on the map.
MODEL_FOLDER = "model"  # What predicting a new video's cluster takes.
CENTERS_FILE = "model/centers.npy"  # The centers of the clusters, (k, T, c).
REDUCER_FILE = "model/reducer.npz"  # The arrays of the reducer.
MAP_NETWORK_FILE = "model/picture.npz"  # The map's own network, where an autoencoder draws it.
ENCODER_FILE = "model/encoder.npz"  # The encoder of learned trajectories.
MODEL_CONFIG_FILE = "model/config.yaml"  # The config of the clustering.
METRICS_FILE = "metrics.json"  # Figures of merit.
DESCRIPTIONS_FILE = "descriptions.json"  # What each cluster is about.
OUTLIERS_FILE = "outliers.csv"  # A row for each ok video, the farthest first; of outliers why, and from when to when.
LEARNED_FILE = "learned.json"  # The losses of learned trajectories by epoch.
SPANS_FILE = "spans.csv"  # The spans of long videos.
EXPORTS_FOLDER = "exports"  # What was written for other tools.
DUPLICATES_FILE = "duplicates.json"  # Groups of near-duplicate videos.
POSTER_FILE = "poster.png"  # The poster, unless another place was named.
POSTER_FACTS_FILE = "poster.json"  # Which frames of which videos the run's own poster shows, and where.

# What the report writes.
SUMMARY_FILE = "summary.json"  # Counts, metrics, seconds, and the clusters in short.
MAPPING_FILE = "video_cluster_mapping.csv"  # A row for each ok video, for a spreadsheet.
PLOTS_FOLDER = "plots"  # The figures, and a contact sheet a cluster.
SWEEP_PLOT_FILE = "plots/sweep.png"  # The figure of the sweep.
THUMBNAILS_FOLDER = "thumbnails"  # A small picture of each video that a contact sheet or the list of outliers shows.
REPORT_FILE = "report.html"  # The page.

# The same by the step that writes them: the step that runs again removes what its earlier result has left.
KEPT_WITH_EMBEDDINGS = (SIGNALS_FOLDER, LEARNING_FOLDER, DATASET_FAULTS_FILE, SWEEP_FILE)
OF_EMBEDDING = (EMBEDDINGS_FOLDER, FRAMES_FOLDER, PLAN_FILE, VIDEOS_FILE, *KEPT_WITH_EMBEDDINGS)
OF_CLUSTERING = (
    TRAJECTORIES_FOLDER,
    CLUSTERS_FILE,
    BARYCENTERS_FILE,
    MODEL_FOLDER,
    METRICS_FILE,
    DESCRIPTIONS_FILE,
    OUTLIERS_FILE,
    LEARNED_FILE,
    SPANS_FILE,
    EXPORTS_FOLDER,
    DUPLICATES_FILE,
    POSTER_FILE,
    POSTER_FACTS_FILE,
    *("poster.jpg", "poster.jpeg", "poster.dzi", "poster.html", "poster_files"),  # The poster in its other forms.
)
OF_REPORT = (SUMMARY_FILE, MAPPING_FILE, PLOTS_FOLDER, THUMBNAILS_FOLDER, REPORT_FILE)
